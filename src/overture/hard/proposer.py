"""The contract of proposers: they propose candidates and never score them."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from overture.core.records.hard import Candidate, Standing
from overture.hard.scorer import TextScorer


@dataclass(frozen=True, slots=True)
class WrongRow:
    """A training row that the leader answers wrong; ``said`` is empty where its answer was not written."""

    text: str
    gold: str
    said: str


@dataclass(frozen=True, slots=True)
class Ask:
    """The state of a search for proposers, without validation and test rows.

    Args:
        scorer: the model on training rows, for proposers that read its distributions or gradients.
        best: the best candidates so far, the leader first.
        wrong: training rows that the leader answers wrong.
        count: how many candidates to propose.
        random: generator of this call only.
    """

    scorer: TextScorer
    best: Sequence[Standing]
    wrong: Sequence[WrongRow]
    count: int
    random: Random

    @property
    def leader(self) -> Candidate:
        """The best candidate so far."""
        return self.best[0].candidate

    def worded(self, text: str, origin: str, of: Candidate | None = None) -> Candidate:
        """A candidate with another instruction, at the same place."""
        return (of or self.leader).model_copy(update={"text": text, "origin": origin})


class Proposer(Protocol):
    """Proposes candidates for one stage of a search."""

    def propose(self, ask: Ask) -> list[Candidate]:
        """Candidates, best guesses first; those beyond ``ask.count`` are dropped.

        Raises:
            OvertureError: it cannot propose at all; the search goes on without it.
        """
        ...
