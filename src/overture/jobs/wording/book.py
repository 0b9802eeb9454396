"""The scores and proposals of a search for words, kept in its run's folder.

Every call is kept whole and replayed in order, so a search that goes on after a stop sees the same numbers and takes
the same decisions.

Shape letters: J candidates, B rows, C labels.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from overture.core.errors import OvertureError, Stopped
from overture.core.records.hard import BookEntry, Candidate, Proposals
from overture.hard.proposer import Ask, Proposer
from overture.hard.scaling import fitted, rescaled
from overture.hard.scorer import Refused, TextScorer, shares_of
from overture.store.runs import Run

_AT_ONCE = 32
_SPLIT = "validation"


class Book:
    """Scores through a scorer, each pair of a candidate and a validation row once.

    Args:
        run: keeps the calls.
        scorer: scores what is not kept yet.
        is_stop_asked: looked at before each call.
        is_scaled: whether losses are taken under a temperature and biases of the label scores, fitted to their rows.

    Attributes:
        row_scores: pairs that were scored.
        tried: keys of the candidates that were proposed before, refused ones too.
    """

    def __init__(self, run: Run, scorer: TextScorer, is_stop_asked: Callable[[], bool], is_scaled: bool) -> None:
        self.run, self.scorer, self.is_stop_asked, self.is_scaled = run, scorer, is_stop_asked, is_scaled
        self.row_scores = 0
        self.tried: set[str] = set()
        self._calls = 0
        self._scores: dict[str, dict[int, list[float]]] = {}

    def losses(self, candidates: Sequence[Candidate], numbers: Sequence[int]) -> list[list[float]]:
        """Divergence of candidates' answers from the shares that rows are judged by, a list for each candidate.

        Where a row's own label judges, it is the negative log-likelihood of that label.

        Raises:
            Stopped: a stop was asked for; what was scored before is kept.
        """
        scores_JBC, shares_BC = self.scores(candidates, numbers), self.shares(numbers)
        if self.is_scaled:
            scores_JBC = rescaled(scores_JBC, fitted(scores_JBC, shares_BC))
        losses: list[list[float]] = divergences_from(shares_BC, scores_JBC).tolist()
        return losses

    def shares(self, numbers: Sequence[int]) -> Tensor:
        """The shares of the labels that rows are judged by, [B, C]; of written answers one share, 1."""
        if not self.scorer.has_labels:
            return torch.ones(len(numbers), 1, dtype=torch.float64)
        rows = self.scorer.rows(Candidate(), _SPLIT)
        return shares_of([rows[number] for number in numbers], len(self.scorer.task.words)).double()

    def scores(self, candidates: Sequence[Candidate], numbers: Sequence[int]) -> Tensor:
        """Log-probabilities of the labels, [J, B, C]; of written answers that of the right one for each token.

        Raises:
            Stopped: a stop was asked for; what was scored before is kept.
        """
        missing: dict[tuple[int, ...], dict[str, Candidate]] = {}
        for candidate in candidates:
            row_scores = self._scores.get(candidate.key, {})
            if lacking := tuple(number for number in numbers if number not in row_scores):
                missing.setdefault(lacking, {})[candidate.key] = candidate
        for lacking, by_key in missing.items():
            lacking_candidates = list(by_key.values())
            for start in range(0, len(lacking_candidates), _AT_ONCE):
                entry = self._entry(lacking_candidates[start : start + _AT_ONCE], lacking)
                for key, scores in zip(entry.keys, entry.scores, strict=True):
                    self._scores.setdefault(key, {}).update(zip(entry.numbers, scores, strict=True))
                self.row_scores += len(entry.keys) * len(lacking)
        scores_JB = [[self._scores[candidate.key][number] for number in numbers] for candidate in candidates]
        return torch.tensor(scores_JB, dtype=torch.float64)

    def _entry(self, candidates: Sequence[Candidate], numbers: Sequence[int]) -> BookEntry:
        name = f"book-{self._calls:04}.json"
        self._calls += 1
        keys = [candidate.key for candidate in candidates]
        entry = self.run.read(name, BookEntry)
        if entry is None or entry.keys != keys or entry.numbers != list(numbers):
            if self.is_stop_asked():
                raise Stopped
            if self.scorer.has_labels:
                scores_JBC = self.scorer.scores(candidates, _SPLIT, numbers)
            else:
                scores_JBC = -self.scorer.losses(candidates, _SPLIT, numbers)[..., None]
            entry = BookEntry(
                keys=keys, numbers=list(numbers), scores=scores_JBC.double().tolist(), tokens=self.scorer.tokens
            )
            self.run.write(name, entry)
        else:
            self.scorer.count_reading(candidates, _SPLIT, numbers)
        self.scorer.tokens = entry.tokens
        return entry

    def proposals(self, name: str, propose: Callable[[], Proposals]) -> Proposals:
        """The proposals of a round: those that are kept, or new ones."""
        record = self.run.read(f"proposals-{name}.json", Proposals)
        if record is None:
            if self.is_stop_asked():
                raise Stopped
            record = propose().model_copy(update={"tokens": self.scorer.tokens})
            self.run.write(f"proposals-{name}.json", record)
        self.scorer.tokens = record.tokens
        self.tried |= {*record.refused_keys, *(candidate.key for candidate in record.candidates)}
        return record


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
    new_candidates: dict[str, Candidate] = {}
    refusals: Counter[str] = Counter()
    refused_keys: list[str] = []
    per_proposer = -(-count // max(1, len(proposers)))
    for name, proposer in proposers.items():
        try:
            candidates = proposer.propose(ask_of(name, per_proposer))
        except OvertureError as error:
            refusals[f"{name}: {error.what}"] += 1
            notice(f"proposer {name} gave nothing: {error.what} ({error.got})")
            continue
        num_before = len(new_candidates)
        for candidate in candidates:
            if len(new_candidates) == num_before + per_proposer:
                break
            if candidate.key in book.tried or candidate.key in new_candidates or candidate.key in refused_keys:
                continue
            try:
                book.scorer.rows(candidate, "validation")
            except Refused as refusal:
                refusals[str(refusal)] += 1
                refused_keys.append(candidate.key)
                continue
            new_candidates[candidate.key] = candidate
    return Proposals(candidates=list(new_candidates.values()), refused=dict(refusals), refused_keys=refused_keys)


def divergences_from(shares_BC: Tensor, scores_JBC: Tensor) -> Tensor:
    """KL(shares, scores) of each row, [J, B], from probabilities and log-probabilities."""
    return (torch.xlogy(shares_BC, shares_BC) - shares_BC * scores_JBC).sum(-1)
