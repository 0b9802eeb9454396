"""One label of several, by the likelihood of its words at the template's end or at an encoder's mask.

Source of contextual calibration: Zhao et al. 2021, "Calibrate Before Use", section 4 (W =
diag(p_cf)^-1, b = 0). Deviation: their third text, the empty one, is left out, since rows must hold text.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from overture.core.config import Config
from overture.core.contracts import LabelScores
from overture.core.errors import ConfigError
from overture.core.rows import Encoded, Prediction
from overture.data.candidates import candidates_of
from overture.data.kind import Example, TaskFile, TaskKind, Tools
from overture.data.kinds.labels import (
    check_labels,
    check_places,
    check_words_differ,
    first_word,
    label_fields,
    label_problems,
    label_shown,
    respelled,
    row_label,
)
from overture.data.row import Row

if TYPE_CHECKING:
    from torch import Tensor


class Options(Config):
    """Options of classification."""

    calibration: Literal["none", "contextual"] = Field(
        "none",
        description="contextual divides a label's probability by what it has for a row without content (Zhao et al. "
        "2021), in predictions; training is as ever.",
    )
    content_free: tuple[str, ...] = Field(
        ("N/A", "[MASK]"), min_length=1, description="What fields show in rows without content, whose mean counts."
    )

    @field_validator("content_free")
    @classmethod
    def _has_text(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(text.strip() for text in texts):
            raise ValueError("a row must hold text")
        return texts


def _check(task: TaskFile) -> None:
    check_labels(task)
    check_words_differ(task)
    if task.read == "mask" and not task.has_mask:
        raise ConfigError("read: mask needs {mask} in the template", where="read")


def _gold(task: TaskFile, row: Row) -> Hashable:
    return row_label(task, row)


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    assert tools.candidates is not None
    label = tools.candidates.labels.index(row_label(task, row)) if with_answer else None
    own: Options = task.own
    blanks = [dict.fromkeys(texts, text) for text in own.content_free] if own.calibration == "contextual" else []
    return [Example(texts, label=label, candidates=tools.candidates, blanks=tuple(blanks))]


def _read(task: TaskFile, row: Encoded, scores: "Tensor", blank_scores: Sequence["Tensor"]) -> Prediction:
    del row
    if blank_scores:
        import torch

        # A head gives a label without rows no probability at all, and no logarithm.
        tiny = torch.finfo(torch.float32).tiny
        bias = torch.stack(list(blank_scores)).exp().mean(0).clamp_min(tiny).log()
        scores = (scores - bias).log_softmax(dim=0)
    shares = tuple(scores.exp().tolist())
    best = int(scores.argmax())
    labels = tuple(task.words)
    return Prediction(labels[best], shares, score=shares[best], labels=labels, confidence=shares[best])


KIND = TaskKind(
    name="classification",
    title="one label of several",
    metrics=("accuracy", "macro_f1"),
    reported=("ece",),
    options=Options,
    check=_check,
    check_model=check_places,
    target_fields=label_fields,
    problems=label_problems,
    corrections=lambda task, row: respelled(task, [row.fields[task.label_field]]),
    gold=_gold,
    group=row_label,
    candidates=candidates_of,
    examples=_examples,
    question=lambda task, row: LabelScores(),
    read=_read,
    shot=first_word,
    shown=label_shown,
    answer_key="label",
    for_encoders=lambda task: True,
    is_one_of=True,
)
