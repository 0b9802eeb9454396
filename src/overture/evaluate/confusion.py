"""The confusion table of labels, the most frequent errors, and the scores of each label."""

from collections import Counter
from collections.abc import Hashable, Sequence

from overture.core.records.scores import ConfusedPair, Confusion, LabelScore
from overture.evaluate.metric import Answers, Of, check_rows

NO_ANSWER = "(none)"


def confusion(
    gold: Answers,
    predicted: Answers,
    places: Sequence[str],
    labels: Sequence[Hashable] = (),
    max_errors: int = 10,
    max_places: int = 5,
) -> Confusion:
    """The confusion table and the most frequent errors.

    Args:
        gold: the right labels.
        predicted: the labels given; None where there was no answer.
        places: file and line of each row.
        labels: the task's labels in their order; labels that occur but are not named follow as they occur.
        max_errors: number of kinds of errors in the result.
        max_places: number of places for each kind.

    Raises:
        DataError: no rows, or not as many predictions or places as rows.
    """
    check_rows(gold, predicted, places)
    pairs = [(_text(g), _text(p)) for g, p in zip(gold, predicted, strict=True)]
    names = tuple(dict.fromkeys([*map(_text, labels), *(g for g, _ in pairs), *(p for _, p in pairs)]))
    counts = Counter(pairs)
    num_gold = Counter(right for right, _ in pairs)
    # Ties by name, so that two reports of the same predictions are equal.
    errors = sorted((pair for pair in counts if pair[0] != pair[1]), key=lambda pair: (-counts[pair], pair))

    def confused_pair(pair: tuple[str, str]) -> ConfusedPair:
        where = [place for place, labels in zip(places, pairs, strict=True) if labels == pair]
        share = counts[pair] / num_gold[pair[0]]
        return ConfusedPair(
            gold=pair[0], predicted=pair[1], count=counts[pair], share=share, where=tuple(where[:max_places])
        )

    return Confusion(
        labels=names,
        counts=tuple(tuple(counts[row, column] for column in names) for row in names),
        errors=tuple(map(confused_pair, errors[:max_errors])),
    )


def label_scores(gold: Answers, predicted: Answers, of: Of, labels: Sequence[str] = ()) -> tuple[LabelScore, ...]:
    """Precision, recall and F1 of each label; of spans a label is right with its start and end only.

    Args:
        gold: the right answers.
        predicted: the answers given.
        of: what the answers are: labels, sets of labels, or spans (label, start, end).
        labels: the task's labels in their order; labels that occur but are not named follow as they occur.

    Raises:
        DataError: no rows, or not as many predictions as rows.
    """
    check_rows(gold, predicted)
    hits: Counter[Hashable] = Counter()
    num_gold: Counter[Hashable] = Counter()
    num_predicted: Counter[Hashable] = Counter()
    for gold_answer, predicted_answer in zip(gold, predicted, strict=True):
        gold_parts, predicted_parts = _labelled_parts(gold_answer, of), _labelled_parts(predicted_answer, of)
        hits.update(label for label, _ in gold_parts & predicted_parts)
        num_gold.update(label for label, _ in gold_parts)
        num_predicted.update(label for label, _ in predicted_parts)
    names = dict.fromkeys([*labels, *num_gold, *num_predicted])

    def label_score(label: Hashable) -> LabelScore:
        n_gold, n_predicted, num_hits = num_gold[label], num_predicted[label], hits[label]
        return LabelScore(
            label=str(label),
            precision=num_hits / n_predicted if n_predicted else None,
            recall=num_hits / n_gold if n_gold else None,
            f1=2 * num_hits / (n_gold + n_predicted) if n_gold + n_predicted else None,
            num_gold=n_gold,
            num_predicted=n_predicted,
        )

    return tuple(map(label_score, names))


def _labelled_parts(answer: Hashable, of: Of) -> set[tuple[Hashable, Hashable]]:
    """The parts of an answer, each with its label."""
    if of == "labels":
        return set() if answer is None else {(answer, None)}
    parts = answer if isinstance(answer, tuple) else (answer,)
    return {(part[0] if of == "spans" else part, part) for part in parts}


def _text(label: Hashable) -> str:
    return NO_ANSWER if label is None else str(label)
