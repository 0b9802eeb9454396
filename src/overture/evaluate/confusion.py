"""The confusion table of labels, and the most frequent errors."""

from collections import Counter
from collections.abc import Hashable, Sequence

from overture.core.records.scores import ConfusedPair, Confusion
from overture.evaluate.metrics import Answers, check_rows

NO_ANSWER = "(none)"


def confusion(
    gold: Answers, predicted: Answers, labels: Sequence[Hashable] = (), max_errors: int = 10, max_rows: int = 5
) -> Confusion:
    """The confusion table and the most frequent errors.

    Args:
        gold: the right labels.
        predicted: the labels given; None where there was no answer.
        labels: the task's labels in their order; labels that occur but are not named follow as they occur.
        max_errors: number of kinds of errors in the result.
        max_rows: number of row numbers for each kind.

    Raises:
        DataError: no rows, or not as many predictions as rows.
    """
    check_rows(gold, predicted)
    pairs = [(_text(g), _text(p)) for g, p in zip(gold, predicted, strict=True)]
    names = tuple(dict.fromkeys([*map(_text, labels), *(g for g, _ in pairs), *(p for _, p in pairs)]))
    counts = Counter(pairs)
    return Confusion(
        labels=names,
        counts=tuple(tuple(counts[row, column] for column in names) for row in names),
        errors=_errors(pairs, counts, max_errors, max_rows),
    )


def _errors(
    pairs: Sequence[tuple[str, str]], counts: "Counter[tuple[str, str]]", max_errors: int, max_rows: int
) -> tuple[ConfusedPair, ...]:
    of_label = Counter(gold for gold, _ in pairs)
    # Ties by name, so that two reports of the same predictions are equal.
    wrong = sorted((pair for pair in counts if pair[0] != pair[1]), key=lambda pair: (-counts[pair], pair))
    return tuple(
        ConfusedPair(
            gold=pair[0],
            predicted=pair[1],
            count=counts[pair],
            share=counts[pair] / of_label[pair[0]],
            rows=tuple(row for row, labels in enumerate(pairs) if labels == pair)[:max_rows],
        )
        for pair in wrong[:max_errors]
    )


def _text(label: Hashable) -> str:
    return NO_ANSWER if label is None else str(label)
