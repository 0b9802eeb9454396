"""Shorter versions of the leader: each word and each example left out in turn.

Source: Li et al. 2025, "Evolving prompts in-context" (PromptQuine), whose TAPruning drops tokens from left to right.
Deviation: a shorter text replaces a longer one when no loss of likelihood can be shown, not at a share of its score.
"""

from overture.core.records.hard import Candidate
from overture.hard.proposer import Ask


class Pruning:
    """The leader without one of its words, or one of its examples."""

    def propose(self, ask: Ask) -> list[Candidate]:
        """Every way to leave one part out."""
        leader = ask.leader
        text = leader.text
        lead, tail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        words = text.split()
        shortened = [[*words[:place], *words[place + 1 :]] for place in range(len(words))]
        proposals = [
            leader.model_copy(
                update={"text": lead + " ".join(other_words) + tail if other_words else "", "origin": "pruning"}
            )
            for other_words in shortened
        ]
        for place in range(len(leader.shots)):
            shots = [*leader.shots[:place], *leader.shots[place + 1 :]]
            proposals.append(leader.model_copy(update={"shots": shots, "origin": "pruning"}))
        return proposals
