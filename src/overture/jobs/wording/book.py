"""The scores and proposals of a search for words, kept in its run's folder.

Every call is kept whole and replayed in order, so a search that goes on after a stop sees the same numbers and takes
the same decisions.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from overture.core.errors import OvertureError, Stopped
from overture.core.records.hard import BookEntry, Candidate, Proposals
from overture.hard.proposer import Ask, Proposer
from overture.hard.scorer import Refused, TextScorer
from overture.store.runs import Run

_AT_ONCE = 32
LossesOf = Callable[[Sequence[Candidate], str, Sequence[int]], Tensor]


class Book:
    """Scores through a scorer, each pair of a candidate and a row once.

    Args:
        run: keeps the calls.
        scorer: scores what is not kept yet.
        is_stop_asked: looked at before each call.
        losses_of: what is low for good candidates; the negative log-likelihood of right answers when None.

    Attributes:
        row_scores: pairs that were scored.
        tried: keys of the candidates that were proposed before, refused ones too.
    """

    def __init__(
        self, run: Run, scorer: TextScorer, is_stop_asked: Callable[[], bool], losses_of: LossesOf | None = None
    ) -> None:
        self.run, self.scorer, self.is_stop_asked = run, scorer, is_stop_asked
        self._losses_of = losses_of or scorer.losses
        self.row_scores = 0
        self.tried: set[str] = set()
        self._calls = 0
        self._losses: dict[str, dict[int, float]] = {}

    def losses(self, candidates: Sequence[Candidate], numbers: Sequence[int]) -> list[list[float]]:
        """Losses of candidates on validation rows, a list for each.

        Raises:
            Stopped: a stop was asked for; what was scored before is kept.
        """
        missing = [c for c in candidates if any(n not in self._losses.get(c.key, {}) for n in numbers)]
        for start in range(0, len(missing), _AT_ONCE):
            part = missing[start : start + _AT_ONCE]
            entry = self._entry(part, numbers)
            for key, losses in zip(entry.keys, entry.losses, strict=True):
                self._losses.setdefault(key, {}).update(zip(entry.numbers, losses, strict=True))
            self.row_scores += len(part) * len(numbers)
        return [[self._losses[candidate.key][number] for number in numbers] for candidate in candidates]

    def _entry(self, candidates: Sequence[Candidate], numbers: Sequence[int]) -> BookEntry:
        name = f"book-{self._calls:04}.json"
        self._calls += 1
        keys = [candidate.key for candidate in candidates]
        entry = self.run.read(name, BookEntry)
        if entry is None or entry.keys != keys or entry.numbers != list(numbers):
            if self.is_stop_asked():
                raise Stopped
            losses = self._losses_of(candidates, "validation", numbers)
            entry = BookEntry(
                keys=keys, numbers=list(numbers), losses=losses.double().tolist(), tokens=self.scorer.tokens
            )
            self.run.write(name, entry)
        else:
            self.scorer.count_reading(candidates, "validation", numbers)
        self.scorer.tokens = entry.tokens
        return entry

    def proposals(self, name: str, propose: Callable[[], Proposals]) -> Proposals:
        """The proposals of a round: those that are kept, or new ones."""
        kept = self.run.read(f"proposals-{name}.json", Proposals)
        if kept is None:
            if self.is_stop_asked():
                raise Stopped
            kept = propose().model_copy(update={"tokens": self.scorer.tokens})
            self.run.write(f"proposals-{name}.json", kept)
        self.scorer.tokens = kept.tokens
        self.tried |= {*kept.refused_keys, *(candidate.key for candidate in kept.candidates)}
        return kept


def proposed(
    book: Book,
    proposers: Mapping[str, Proposer],
    ask_of: Callable[[str, int], Ask],
    count: int,
    notice: Callable[[str], None],
) -> Proposals:
    """New candidates of several proposers, as many of each; those that cannot be scored with their reasons.

    Args:
        book: knows what was tried.
        proposers: by name.
        ask_of: the state of the search for a proposer, from its name and how many candidates are wanted of it.
        count: candidates of all together.
        notice: called with a sentence for each proposer that fails.
    """
    accepted: dict[str, Candidate] = {}
    refused: Counter[str] = Counter()
    refused_keys: list[str] = []
    per_proposer = -(-count // max(1, len(proposers)))
    for name, proposer in proposers.items():
        try:
            candidates = proposer.propose(ask_of(name, per_proposer))
        except OvertureError as error:
            refused[f"{name}: {error.what}"] += 1
            notice(f"proposer {name} gave nothing: {error.what} ({error.got})")
            continue
        num_before = len(accepted)
        for candidate in candidates:
            if len(accepted) == num_before + per_proposer:
                break
            if candidate.key in book.tried or candidate.key in accepted or candidate.key in refused_keys:
                continue
            try:
                book.scorer.rows(candidate, "validation")
            except Refused as refusal:
                refused[str(refusal)] += 1
                refused_keys.append(candidate.key)
                continue
            accepted[candidate.key] = candidate
    return Proposals(candidates=list(accepted.values()), refused=dict(refused), refused_keys=refused_keys)
