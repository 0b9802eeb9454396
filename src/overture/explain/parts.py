"""Importance of a prompt's parts: the change of the answers when a part is left out.

The measure is the divergence of the label distribution from the whole prompt's. The log-likelihood of right answers
shows whether a part helps or harms, but not how much it matters: a trained prompt is overconfident, so the column that
does most of the work may cost likelihood on new rows.

A column of keys and values gets weight 0, which equals no column. A vector among the live tokens is removed, and the
tokens behind it move up by one; in a template's slots, whose number is fixed, it becomes zero.

Shape letters: P prompt length, B rows.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

import torch
from torch import Tensor

from overture.core.contracts import LabelScores
from overture.core.injection import Injection, Memory, Vectors
from overture.core.records.explain import Mean
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer
from overture.engine.judge import LocalJudge
from overture.explain.fidelity import divergences


def without_columns(prompt: Injection, left_out: Sequence[int]) -> Injection | None:
    """A prompt without some of its columns, numbered over its vectors and then its memory; None if nothing remains."""
    if not left_out:
        return prompt
    num_vectors = prompt.vectors.length if prompt.vectors else 0
    vectors = prompt.vectors and _vectors_without(prompt.vectors, [n for n in left_out if n < num_vectors])
    memory = prompt.memory
    if memory and (columns := [n - num_vectors for n in left_out if n >= num_vectors]):
        keys, weights = memory.memory.keys, memory.memory.weights
        weights = keys.new_ones(keys.shape[0], memory.length) if weights is None else weights.clone()
        weights[:, columns] = 0.0
        memory = Memory(replace(memory.memory, weights=weights), memory.place)
    reduced = replace(prompt, vectors=vectors, memory=memory)
    return reduced if vectors or memory or reduced.labels is not None or reduced.offset is not None else None


def _vectors_without(vectors: Vectors, left_out: Sequence[int]) -> Vectors | None:
    if not left_out:
        return vectors
    if vectors.place == "slots":
        values = vectors.values.clone()
        values[list(left_out)] = 0.0
        return replace(vectors, values=values)
    remaining = [n for n in range(vectors.length) if n not in set(left_out)]
    if not remaining:
        return None
    split = vectors.split
    if split is not None:
        num_before = sum(n < vectors.num_before for n in remaining)
        split = split.new_zeros(len(remaining) + 1)
        split[num_before] = 1
    targets = ()
    return replace(vectors, values=vectors.values[remaining], split=split, targets=targets)


@torch.no_grad()
def scores_without(
    answerer: LocalAnswerer, prompts: Sequence[Injection], rows: Sequence[Encoded], left_out: Sequence[Sequence[int]]
) -> Tensor:
    """Log-probabilities of the labels under the prompt without each of some sets of columns, [len(left_out), B, C].

    Args:
        answerer: the model.
        prompts: one for all rows, or one for each.
        rows: the rows.
        left_out: numbers of columns.
    """
    if len(prompts) == 1:
        changed = [without_columns(prompts[0], columns) for columns in left_out]
        return LocalJudge(answerer, max_tokens=4096).scores(changed, rows)
    scores = []
    for columns in left_out:
        of_rows = [without_columns(prompt, columns) for prompt in prompts]
        pairs = list(zip(rows, of_rows, strict=True))
        parts = [answerer.ask(pairs[start : start + 16], LabelScores()) for start in range(0, len(rows), 16)]
        scores.append(torch.stack([row_scores for part in parts for row_scores in part]))
    return torch.stack(scores)


def changes_of(scores_JBC: Tensor) -> Tensor:
    """KL of each row's label distribution under the first prompt from that under each other one, [J - 1, B]."""
    return divergences(scores_JBC[0], scores_JBC[1:])


def drops_of(scores_JBC: Tensor, rows: Sequence[Encoded]) -> Tensor:
    """Log-likelihood of the rows' right answers that each other prompt loses against the first, [J - 1, B]."""
    gold_B = torch.tensor([row.label or 0 for row in rows])
    likelihoods_JB = scores_JBC[:, torch.arange(len(rows)), gold_B]
    return likelihoods_JB[0] - likelihoods_JB[1:]


def mean_of(values: Sequence[float]) -> Mean:
    """A mean with its 95% t interval over rows."""
    n, mean = len(values), fmean(values)
    if n < 2:
        return Mean(value=mean, low=mean, high=mean, n=n)
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * stdev(values) / math.sqrt(n)
    return Mean(value=mean, low=mean - half, high=mean + half, n=n)
