"""A number, as the mean of some numbers that have label words, weighted by their probabilities.

``labels: {1: " bad", 3: " fair", 5: " good"}``: a row of 2.5 is taught as one quarter of 1 and three quarters of 3, so
that the mean is the number. With a trained vector for each label (``warp``) this is a head of the model's own.
"""

from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from overture.core.contracts import LabelScores
from overture.core.errors import ConfigError, Problem
from overture.core.rows import Encoded, Prediction
from overture.data.candidates import candidates_of
from overture.data.kind import Example, TaskFile, TaskKind, Tools
from overture.data.kinds.labels import check_labels, check_places, check_words_differ, label_fields, shares_shown
from overture.data.row import Row, missing_field
from overture.data.values import as_number, has_decimal_comma, kind

if TYPE_CHECKING:
    from torch import Tensor


def _check(task: TaskFile) -> None:
    check_labels(task)
    check_words_differ(task)
    odd = [label for label in task.words if as_number(label) is None]
    if odd:
        raise ConfigError("the labels of a regression are numbers", where="labels", got=odd[0])
    if len(set(_points(task))) < len(task.words):
        raise ConfigError("two labels of the regression are the same number", where="labels")


def _points(task: TaskFile) -> list[float]:
    return [as_number(label) or 0.0 for label in task.words]


def _problems(task: TaskFile, row: Row) -> list[Problem]:
    if task.label_field not in row.fields:
        return [missing_field(task.label_field, row.where, list(row.fields))]
    label = row.fields[task.label_field]
    value = as_number(label)
    if value is None:
        what = repr(label) if isinstance(label, str) else kind(label)
        return [Problem(row.where, f"the label is {what}", "wanted a finite number")]
    low, high = min(_points(task)), max(_points(task))
    if not low <= value <= high:
        return [Problem(row.where, f"{value:g} is beyond the labels {low:g} to {high:g}", "name a label further out")]
    return []


def _corrections(task: TaskFile, row: Row) -> tuple[str, ...]:
    return ("decimal commas are read as points",) if has_decimal_comma(row.fields[task.label_field]) else ()


def _gold(task: TaskFile, row: Row) -> Hashable:
    return as_number(row.fields[task.label_field])


def _shares(task: TaskFile, value: float) -> tuple[float, ...]:
    """The number as a mean of its two neighbours among the labels."""
    points = _points(task)
    order = sorted(range(len(points)), key=points.__getitem__)
    rank = min(max(bisect_right([points[i] for i in order], value), 1), len(order) - 1)
    below, above = order[rank - 1], order[rank]
    share = (value - points[below]) / (points[above] - points[below])
    shares = [0.0] * len(points)
    shares[below], shares[above] = 1 - share, share
    return tuple(shares)


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    shares = _shares(task, as_number(row.fields[task.label_field]) or 0.0) if with_answer else None
    return [Example(texts, shares=shares, candidates=tools.candidates)]


def _read(task: TaskFile, row: Encoded, scores: "Tensor", blank_scores: Sequence["Tensor"]) -> Prediction:
    del row, blank_scores
    shares = tuple(scores.exp().tolist())
    value = sum(share * point for share, point in zip(shares, _points(task), strict=True))
    return Prediction(f"{value:.6g}", shares, value, labels=tuple(task.words))


def _shown(task: TaskFile, prediction: Prediction) -> dict[str, Any]:
    del task
    return {"value": prediction.answer, **shares_shown(prediction)}


def _shot(task: TaskFile, row: Row) -> str | None:
    shares = _shares(task, as_number(row.fields[task.label_field]) or 0.0)
    nearest = max(range(len(shares)), key=shares.__getitem__)
    return list(task.words.values())[nearest][0]


KIND = TaskKind(
    name="regression",
    title="a number, by label words or a head",
    metrics=("r2", "spearman", "pearson"),
    reported=("mse",),
    check=_check,
    check_model=check_places,
    target_fields=label_fields,
    problems=_problems,
    gold=_gold,
    candidates=candidates_of,
    examples=_examples,
    question=lambda task, row: LabelScores(),
    read=_read,
    shot=_shot,
    shown=_shown,
    corrections=_corrections,
    answer_key="value",
    for_encoders=lambda task: True,
)
