from itertools import zip_longest

from hypothesis import given
from hypothesis import strategies as st

from overture.core.rows import Encoded
from overture.data.batches import epoch_batches, micro_batches, scoring_batches

LENGTHS = st.lists(st.integers(0, 40), max_size=120)


def rows_of(lengths):
    return [Encoded.of_ids(i, (1,) * length, (2,)) for i, length in enumerate(lengths)]


def numbers(batches):
    return [[row.row for row in batch] for batch in batches]


@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_every_row_once_and_the_same_again(lengths, size, seed, epoch):
    rows = rows_of(lengths)
    batches = epoch_batches(rows, size, seed, epoch)
    assert sorted(row.row for batch in batches for row in batch) == list(range(len(rows)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert len(batches) == -(-len(rows) // size)
    assert numbers(epoch_batches(rows, size, seed, epoch)) == numbers(batches)


def test_seed_and_epoch_change_the_order():
    rows = rows_of(range(64))
    first = numbers(epoch_batches(rows, 4, 0, 0))
    assert first != numbers(epoch_batches(rows, 4, 0, 1))
    assert first != numbers(epoch_batches(rows, 4, 1, 0))


def test_rows_of_like_length_stand_together_and_batches_are_not_sorted():
    batches = epoch_batches(rows_of(range(64)), 8, 0, 0)
    firsts = [batch[0].row for batch in batches]
    assert all(max(r.row for r in b) - min(r.row for r in b) == 7 for b in batches)
    assert firsts != sorted(firsts)


@given(lengths=LENGTHS, budget=st.integers(1, 200))
def test_micro_batches_keep_order_and_budget_and_waste_nothing(lengths, budget):
    rows = rows_of(lengths)
    cut = micro_batches(rows, budget)
    assert [row for batch in cut for row in batch] == rows
    for batch, after in zip_longest(cut, cut[1:]):
        padded = len(batch) * max(row.num_tokens for row in batch)
        assert len(batch) == 1 or padded <= budget
        if after:
            assert (len(batch) + 1) * max(row.num_tokens for row in [*batch, after[0]]) > budget


@given(lengths=LENGTHS, seed=st.randoms())
def test_scoring_batches_are_sorted_whatever_the_order(lengths, seed):
    rows = rows_of(lengths)
    wanted = numbers(scoring_batches(rows, 100))
    flat = [row.num_tokens for batch in scoring_batches(rows, 100) for row in batch]
    seed.shuffle(rows)
    assert numbers(scoring_batches(rows, 100)) == wanted
    assert flat == sorted(length + 1 for length in lengths)
