"""Soft label words: prompt vectors, and one trained vector for each label in place of the label words (`labels.py`).

With P [P, D] at [P; X] (or [X; P; anchor], or in slots) and v [C, D]. Trainable values: P D + C D.

Source: Hambardzumyan, Khachatrian and May 2021, "WARP: Word-level Adversarial ReProgramming", section 3.
Deviations: see `labels.py`; the option `prompt.labels` puts the same label vectors beside every other method.
"""

from overture.prompt.labels import LabelVectors, RowLabelVectors, label_start, with_labels
from overture.prompt.methods import WarpOptions
from overture.prompt.module import Request
from overture.prompt.vectors import PromptVectors


def build(request: Request) -> LabelVectors | RowLabelVectors:
    """Vectors and label vectors at their start."""
    options: WarpOptions = request.options
    vectors = PromptVectors(request.start, request.place)
    labels, bias = label_start(request.source)
    return with_labels(vectors, labels, options.label_rate, bias)
