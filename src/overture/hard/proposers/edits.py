"""Edits of the best instructions: words deleted, swapped, repeated, joined from two texts, and the other place.

Source: Prasad et al. 2023, "GrIPS: gradient-free, edit-based instruction search", whose deletion, swap and addition of
phrases these are; its paraphrases need another model and are left out.
"""

from random import Random

from overture.core.records.hard import Candidate
from overture.hard.proposer import Ask

_ENDS = (".", "?", ":", "!")


class Edits:
    """Neighbours of the best texts."""

    def propose(self, ask: Ask) -> list[Candidate]:
        """Edits of the best candidates in turn, nearer the leader more often."""
        instructions = [standing.candidate for standing in ask.best if standing.candidate.text]
        if not instructions:
            return []
        proposals = []
        for turn in range(4 * ask.count):
            candidate = instructions[
                min(ask.random.randrange(len(instructions)), ask.random.randrange(len(instructions)))
            ]
            second = instructions[ask.random.randrange(len(instructions))]
            proposals.append(_edited(candidate, second, turn, ask.random))
        return list({proposal.key: proposal for proposal in proposals if proposal}.values())


def _edited(candidate: Candidate, second_candidate: Candidate, turn: int, random: Random) -> Candidate | None:
    lead = candidate.text[: len(candidate.text) - len(candidate.text.lstrip())]
    words = candidate.text.split()
    kind = ("delete", "swap", "join", "end", "lead", "shorten", "place")[turn % 7]
    if kind == "place":
        place = "before" if candidate.place == "after" else "after"
        text = candidate.text.strip() + "\n" if place == "before" else "\n" + candidate.text.strip()
        return candidate.model_copy(update={"place": place, "text": text, "origin": "edits"})
    tail = "\n" if candidate.place == "before" else ""
    if kind == "delete" and len(words) > 1:
        words.pop(random.randrange(len(words)))
    elif kind == "swap" and len(words) > 1:
        first, second = random.sample(range(len(words)), 2)
        words[first], words[second] = words[second], words[first]
    elif kind == "join":
        second_words = second_candidate.text.split()
        words = words[: random.randint(1, len(words))] + second_words[random.randrange(len(second_words)) :]
    elif kind == "end":
        words[-1] = words[-1].rstrip("".join(_ENDS)) + random.choice(_ENDS)
    elif kind == "lead" and candidate.place == "after":
        lead = random.choice([text for text in ("\n", " ", "\n\n") if text != lead])
    elif kind == "shorten" and len(words) > 2:
        words = words[: len(words) // 2] if random.random() < 0.5 else words[len(words) // 2 :]
    text = lead + " ".join(words) + tail
    return candidate.model_copy(update={"text": text, "origin": "edits"}) if text != candidate.text else None
