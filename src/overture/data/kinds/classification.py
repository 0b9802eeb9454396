"""One label of several, by the likelihood of its words at the template's end or at an encoder's mask.

Source of contextual calibration: Zhao et al. 2021, "Calibrate Before Use", section 5; one content-free text, not three.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from overture.core.config import Config
from overture.core.types import Encoded, Prediction, Scorer
from overture.data.candidates import candidates_of
from overture.data.kind import Example, Kind, TaskFile, Tools
from overture.data.kinds.labels import (
    check_labels,
    check_places,
    first_word,
    label_fields,
    label_problems,
    label_shown,
    row_label,
)
from overture.data.row import Row


class Options(Config):
    """Options of classification."""

    calibration: Literal["none", "contextual"] = Field(
        "none",
        description="contextual divides a label's probability by what it has for a row without content (Zhao et al. "
        "2021), in predictions; training is as ever.",
    )
    content_free: str = Field("N/A", min_length=1, description="What fields show in the row without content.")


def _check(task: TaskFile) -> None:
    check_labels(task)
    if task.read == "mask" and not task.has_mask:
        raise ValueError("read: mask needs {mask} in the template")


def _gold(task: TaskFile, row: Row) -> Hashable:
    return row_label(task, row)


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    assert tools.candidates is not None
    label = tools.candidates.labels.index(row_label(task, row)) if with_answer else None
    own: Options = task.own
    blank = dict.fromkeys(texts, own.content_free) if own.calibration == "contextual" else None
    return [Example(texts, label=label, candidates=tools.candidates, blank=blank)]


def _predictions(task: TaskFile, scorer: Scorer, rows: Sequence[Encoded]) -> list[Prediction]:
    scores = scorer.label_scores(rows)
    blanks = list(dict.fromkeys(row.blank for row in rows if row.blank))
    if blanks:
        # Their W = diag(p of the row without content)^-1 without a bias: a difference of logarithms.
        index = [blanks.index(row.blank) for row in rows if row.blank]
        scores = (scores - scorer.label_scores(blanks)[index]).log_softmax(dim=1)
    labels = tuple(task.words)
    shares = [tuple(own.exp().tolist()) for own in scores]
    best = [int(own.argmax()) for own in scores]
    return [Prediction(labels[at], own, score=own[at]) for at, own in zip(best, shares, strict=True)]


KIND = Kind(
    name="classification",
    title="one label of several",
    metrics=("accuracy", "macro_f1"),
    reported=("ece",),
    options=Options,
    check=_check,
    check_model=check_places,
    target_fields=label_fields,
    problems=label_problems,
    gold=_gold,
    group=row_label,
    candidates=candidates_of,
    examples=_examples,
    predictions=_predictions,
    shot=first_word,
    shown=label_shown,
)
