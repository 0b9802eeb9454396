"""The confusion table and its most frequent errors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from overture.core.errors import DataError
from overture.evaluate.confusion import confusion


def test_by_hand():
    gold = ["pos", "pos", "pos", "neg", "neg"]
    found = confusion(gold, ["neg", "pos", "neg", "neg", None], labels=["neg", "pos", "other"])
    assert found.labels == ("neg", "pos", "other", "(none)")
    assert found.counts == ((1, 0, 0, 1), (2, 1, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0))
    worst, second = found.errors
    assert (worst.gold, worst.predicted, worst.count, worst.rows) == ("pos", "neg", 2, (0, 2))
    assert worst.share == pytest.approx(2 / 3)
    assert (second.gold, second.predicted, second.share) == ("neg", "(none)", 0.5)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_the_table_is_scikit_learns(pairs):
    gold, predicted = zip(*pairs, strict=True)
    found = confusion(gold, predicted, labels="abc")
    assert found.counts == tuple(map(tuple, confusion_matrix(gold, predicted, labels=["a", "b", "c"]).tolist()))
    counts = [error.count for error in found.errors]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == sum(g != p for g, p in pairs)


def test_only_the_most_frequent_errors_and_their_first_rows_are_told():
    gold = ["a"] * 20
    found = confusion(gold, ["b"] * 12 + ["c"] * 8, max_errors=1, max_rows=3)
    assert [(error.predicted, error.rows) for error in found.errors] == [("b", (0, 1, 2))]


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        confusion([], [])
