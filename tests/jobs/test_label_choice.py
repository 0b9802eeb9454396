"""Rows kept apart are a random sample whatever was labelled; rows that teach are unsure and unlike each other."""

import random

import pytest
import torch

from overture.data.row import Row
from overture.data.task import Task
from overture.jobs.label.choose import diverse
from overture.jobs.label.pool import is_apart, pool_of, sampled

TASK = Task(name="t", data={"train": "x"}, template="{text}\n", labels={"a": " a", "b": " b"})


def rows_of(count, **fields):
    return [Row({"text": f"text {number}", **fields}, number + 1, "rows.csv") for number in range(count)]


def test_what_is_kept_apart_does_not_depend_on_order_or_on_what_is_known():
    rows = rows_of(400)
    whole = pool_of(TASK, rows, [], 0.2, 3)
    assert 50 < len(whole.apart) < 110
    shuffled = random.Random(1).sample(rows, len(rows))
    assert pool_of(TASK, shuffled, [], 0.2, 3).apart == whole.apart
    known = [*whole.apart[:5], *whole.others[:40]]
    left = pool_of(TASK, rows, known, 0.2, 3)
    assert left.apart == whole.apart[5:]
    assert left.others == whole.others[40:]
    assert all(is_apart(TASK, row, 0.2, 3) for row in whole.apart)
    assert pool_of(TASK, rows, [], 0.2, 4).apart != whole.apart
    assert not pool_of(TASK, rows, [], 0, 3).apart


def test_rows_that_show_the_same_are_one():
    rows = [*rows_of(3, id=1), *rows_of(3, id=2)]
    pool = pool_of(TASK, rows, [], 0, 0)
    assert (len(pool.others), pool.num_repeats) == (3, 3)


def test_a_sample_is_drawn_by_lots():
    rows = rows_of(50)
    drawn = sampled(TASK, rows, 10, 0)
    assert len(drawn) == 10
    assert list(drawn) != rows[:10]
    assert sampled(TASK, list(reversed(rows)), 10, 0) == drawn
    assert sampled(TASK, rows, 50, 0) == rows


def test_unsure_rows_of_every_cluster_come_first():
    """Three clusters of texts, in each one unsure row among sure ones: these three are chosen."""
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(3, 16, generator=generator)
    features = torch.cat([centre + 0.1 * torch.randn(20, 16, generator=generator) for centre in centres])
    shares = torch.tensor([0.999, 0.001]).repeat(60, 1)
    shares[[7, 27, 47]] = torch.tensor([0.5, 0.5])
    for seed in range(5):
        assert sorted(diverse(shares, features, 3, seed)) == [7, 27, 47]


@pytest.mark.parametrize("count", [0, 2, 9])
def test_equal_rows_are_chosen_once_each(count):
    chosen = diverse(torch.full((5, 2), 0.5), torch.ones(5, 4), count, 0)
    assert len(chosen) == len(set(chosen)) == min(count, 5)
