"""The confusion table and its most frequent errors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from overture.core.errors import DataError
from overture.evaluate.confusion import confusion, label_scores

PLACES = [f"rows.csv:{line}" for line in range(2, 7)]


def test_by_hand():
    gold = ["pos", "pos", "pos", "neg", "neg"]
    found = confusion(gold, ["neg", "pos", "neg", "neg", None], PLACES, labels=["neg", "pos", "other"])
    assert found.labels == ("neg", "pos", "other", "(none)")
    assert found.counts == ((1, 0, 0, 1), (2, 1, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0))
    worst, second = found.errors
    assert (worst.gold, worst.predicted, worst.count, worst.where) == ("pos", "neg", 2, ("rows.csv:2", "rows.csv:4"))
    assert worst.share == pytest.approx(2 / 3)
    assert (second.gold, second.predicted, second.share) == ("neg", "(none)", 0.5)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_the_table_is_scikit_learns(pairs):
    gold, predicted = zip(*pairs, strict=True)
    found = confusion(gold, predicted, [""] * len(gold), labels="abc")
    assert found.counts == tuple(map(tuple, confusion_matrix(gold, predicted, labels=["a", "b", "c"]).tolist()))
    counts = [error.count for error in found.errors]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == sum(g != p for g, p in pairs)


def test_only_the_most_frequent_errors_and_their_first_rows_are_told():
    gold = ["a"] * 20
    found = confusion(gold, ["b"] * 12 + ["c"] * 8, PLACES * 4, max_errors=1, max_places=3)
    assert [(error.predicted, error.where) for error in found.errors] == [("b", tuple(PLACES[:3]))]


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        confusion([], [], [])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_scores_of_labels_are_scikit_learns(pairs):
    gold, predicted = zip(*pairs, strict=True)
    wanted = precision_recall_fscore_support(gold, predicted, labels=["a", "b", "c"], zero_division=0)
    found = label_scores(gold, predicted, "labels", "abc")
    for number, score in enumerate(found):
        precision, recall, f1, support = (column[number] for column in wanted)
        assert (score.precision or 0, score.recall or 0, score.f1 or 0) == pytest.approx((precision, recall, f1))
        assert (score.num_gold, score.num_predicted) == (support, predicted.count("abc"[number]))


def test_scores_of_sets_and_spans():
    sets = label_scores([("a", "b"), ()], [("b", "c"), ("a",)], "sets", ["a", "b", "c", "d"])
    assert [(s.label, s.precision, s.recall, s.num_gold, s.num_predicted) for s in sets] == [
        ("a", 0.0, 0.0, 1, 1),
        ("b", 1.0, 1.0, 1, 1),
        ("c", 0.0, None, 0, 1),
        ("d", None, None, 0, 0),
    ]
    spans = label_scores(
        [(("per", 0, 2), ("loc", 5, 6), ("per", 8, 9))], [(("per", 0, 2), ("per", 8, 10))], "spans", ["per", "loc"]
    )
    assert [(s.label, s.precision, s.recall, s.f1) for s in spans] == [("per", 0.5, 0.5, 0.5), ("loc", None, 0.0, 0.0)]


def test_a_row_without_a_label_counts_as_no_prediction():
    (a, b) = label_scores(["a", "b"], [None, "b"], "labels", ["a", "b"])
    assert (a.precision, a.recall, a.num_predicted) == (None, 0.0, 0)
    assert (b.precision, b.recall) == (1.0, 1.0)
