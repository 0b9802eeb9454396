"""Batches: shuffled by seed for training, cut to a token budget for memory, sorted by length for scoring."""

from collections.abc import Sequence

from overture.core.seeds import named_random
from overture.core.types import Encoded

_BATCHES_PER_BUCKET = 8


def epoch_batches(rows: Sequence[Encoded], batch_size: int, seed: int, epoch: int) -> list[list[Encoded]]:
    """An epoch's batches: every row once, rows of like length together, the same for the same seed and epoch."""
    assert batch_size >= 1
    random = named_random(seed, "order", epoch)
    order = list(rows)
    random.shuffle(order)
    batches: list[list[Encoded]] = []
    for start in range(0, len(order), batch_size * _BATCHES_PER_BUCKET):
        bucket = sorted(order[start : start + batch_size * _BATCHES_PER_BUCKET], key=_length)
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    random.shuffle(batches)
    return batches


def micro_batches(batch: Sequence[Encoded], max_tokens: int) -> list[list[Encoded]]:
    """A batch cut, in order, so that rows times the longest row stay within the budget; one row at least."""
    cut: list[list[Encoded]] = []
    longest = 0
    for row in batch:
        longest = max(longest, _length(row))
        if cut and (len(cut[-1]) + 1) * longest <= max_tokens:
            cut[-1].append(row)
        else:
            cut.append([row])
            longest = _length(row)
    return cut


def scoring_batches(rows: Sequence[Encoded], max_tokens: int) -> list[list[Encoded]]:
    """All rows sorted by length and cut to the token budget; the order does not depend on the rows' order."""
    return micro_batches(sorted(rows, key=lambda row: (_length(row), row.row)), max_tokens)


def _length(row: Encoded) -> int:
    return row.num_tokens
