"""Batches of several tasks: every row once, two tasks at least, whatever the seed."""

import pytest

from overture.core.rows import Encoded
from overture.data.batches import task_batches

SIZES = (40, 7, 23)


def rows_of(sizes: tuple[int, ...] = SIZES) -> list[Encoded]:
    starts = [1000 * number for number in range(len(sizes))]
    return [
        Encoded.of_ids(start + row, (1,), (2,))
        for start, size in zip(starts, sizes, strict=True)
        for row in range(size)
    ]


def batches(seed: int = 0, epoch: int = 0, size: int = 8, sizes: tuple[int, ...] = SIZES) -> list[list[Encoded]]:
    return task_batches(rows_of(sizes), size, seed, epoch, task_of=lambda row: row.row // 1000)


@pytest.mark.parametrize("seed", range(5))
def test_every_row_once_and_full_batches(seed: int) -> None:
    found = batches(seed)
    assert sorted(row.row for batch in found for row in batch) == sorted(row.row for row in rows_of())
    assert [len(batch) for batch in found] == [8] * 8 + [6]


def test_a_number_of_tasks_is_drawn_for_each_batch() -> None:
    counts = [
        len({row.row // 1000 for row in batch}) for seed in range(20) for batch in batches(seed, sizes=(60, 60, 60))
    ]
    assert {2, 3} <= set(counts)
    assert counts.count(1) < 0.1 * len(counts)


def test_the_seed_and_the_epoch_decide() -> None:
    assert batches(1, 2) == batches(1, 2)
    assert batches(1, 2) != batches(1, 3)
    assert batches(1, 2) != batches(2, 2)
