"""One label of several, by the likelihood of its words at the template's end or at an encoder's mask.

Source of contextual calibration: Zhao et al. 2021, "Calibrate Before Use", section 4 (W =
diag(p_cf)^-1, b = 0). Deviation: their third text, the empty one, is left out, since rows must hold text. Source of
temperature and biases: Alexandari et al. 2020, "Maximum likelihood with bias-corrected calibration", section 3
(bias-corrected temperature scaling), after Guo et al. 2017.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, FiniteFloat, field_validator

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

    temperature: float = Field(
        1.0, gt=0, le=1000, description="Label scores are divided by it in predictions; below 1 they are more certain."
    )
    label_bias: dict[str, FiniteFloat] = Field(
        {}, description="label -> what is added to its score in predictions, behind temperature; 0 for others."
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
    options: Options = task.kind_options
    if unknown := [label for label in options.label_bias if label not in task.words]:
        raise ConfigError(
            "a bias for no label of the task", where="options.label_bias", got=", ".join(unknown),
            wanted=", ".join(task.words),
        )  # fmt: skip


def _gold(task: TaskFile, row: Row) -> Hashable:
    return row_label(task, row)


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    assert tools.candidates is not None
    label = tools.candidates.labels.index(row_label(task, row)) if with_answer else None
    options: Options = task.kind_options
    blanks = (
        [dict.fromkeys(texts, text) for text in options.content_free] if options.calibration == "contextual" else []
    )
    return [Example(texts, label=label, candidates=tools.candidates, blanks=tuple(blanks))]


def corrected(task: TaskFile, scores: "Tensor", blank_scores: "Tensor | None") -> "Tensor":
    """Log-probabilities of labels, [..., C], as predictions give them.

    Args:
        task: its options say what is corrected.
        scores: as the model gives them, [..., C].
        blank_scores: of rows without content, [..., rows, C]; None without calibration.
    """
    options: Options = task.kind_options
    if blank_scores is not None:
        import torch

        # A head gives a label without rows no probability at all, and no logarithm.
        tiny = torch.finfo(torch.float32).tiny
        scores = (scores - blank_scores.exp().mean(-2).clamp_min(tiny).log()).log_softmax(-1)
    if options.temperature != 1 or options.label_bias:
        bias_C = scores.new_tensor([options.label_bias.get(label, 0.0) for label in task.words])
        scores = (scores / options.temperature + bias_C).log_softmax(-1)
    return scores


def _read(task: TaskFile, row: Encoded, scores: "Tensor", blank_scores: Sequence["Tensor"]) -> Prediction:
    del row
    if blank_scores:
        import torch

        scores = corrected(task, scores, torch.stack(list(blank_scores)))
    else:
        scores = corrected(task, scores, None)
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
