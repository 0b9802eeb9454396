"""Metrics against hand counts and scikit-learn."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from overture.core.errors import ConfigError, DataError
from overture.evaluate.metric import answer_text
from overture.evaluate.metrics import METRICS, metric_named

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)

TEXTS = ("the cat sat on the mat", "a dog", "", "Paris, in France!", "cats sat on mats today")
# What a whole number from 0 to 4 stands for as gold and as predicted answer, by what a metric compares.
MADE = {
    "labels": (int, int),
    "confidences": (int, lambda number: (number, number / 4)),
    "sets": (lambda number: tuple("ab"[: number % 3]), lambda number: tuple("abc"[number % 3 :])),
    "texts": (lambda number: (TEXTS[number], TEXTS[number - 1]), TEXTS.__getitem__),
    "spans": (lambda number: (("x", 0, 1),) * (number > 1) + (("y", 1, number),), lambda number: (("y", 1, number),)),
    "numbers": (float, lambda number: number * number / 3),
}


def test_by_hand():
    gold, predicted = ["a", "a", "a", "b"], ["a", "a", "b", "b"]
    assert METRICS["accuracy"](gold, predicted) == 0.75
    # F1 of a: 4/5; of b: 2/3.
    assert METRICS["macro_f1"](gold, predicted) == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_exact_match_ignores_case_and_white_space_only():
    gold = [" New  York\n", "Straße", "a.", "b"]
    assert METRICS["exact_match"](gold, ["new york", "STRASSE", "a", "B"]) == 0.75
    assert METRICS["exact_match"].rows(gold, ["new york", "STRASSE", "a", "B"]) == (True, True, False, True)


@given(PAIRS)
def test_macro_f1_is_scikit_learns(pairs):
    gold, predicted = zip(*pairs, strict=True)
    assert METRICS["macro_f1"](gold, predicted) == pytest.approx(
        f1_score(gold, predicted, average="macro", zero_division=0)
    )


@settings(deadline=None, max_examples=50)
@given(PAIRS, st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("name", METRICS)
def test_a_weighting_is_a_resample(name, pairs, seed):
    """Weights say how often each row was drawn; the metric of the drawn rows is the same."""
    gold, predicted = (list(map(MADE[METRICS[name].of][i], each)) for i, each in enumerate(zip(*pairs, strict=True)))
    indices = np.random.default_rng(seed).integers(0, len(gold), size=(3, len(gold)))
    weights = np.stack([np.bincount(row, minlength=len(gold)) for row in indices]).astype(float)
    found = METRICS[name].weighted(gold, predicted, weights)
    wanted = [METRICS[name]([gold[i] for i in row], [predicted[i] for i in row]) for row in indices]
    assert found == pytest.approx(wanted)


def test_any_hashable_is_a_label():
    assert METRICS["macro_f1"](["a", 1, None], ["a", 1, "a"]) == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_rows_that_do_not_pair_up_are_refused(metric):
    with pytest.raises(DataError, match="no rows"):
        metric([], [])
    with pytest.raises(DataError, match=r"(?s)pair up.*got: 1.*wanted: 2"):
        metric(["a", "b"], ["a"])


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'macro_f1'"):
        metric_named("macrof1")


def test_importing_computes_nothing():
    code = "import sys, overture.evaluate.intervals as i, overture.evaluate.confusion\n"
    code += "print([name for name in ('numpy', 'scipy', 'sklearn', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_word_error_rate_counts_edits_over_words():
    gold = ["the cat sat on the mat", "Don't stop!", "yes"]
    said = ["the cat sat the big mat", "don\u2019t stop", "no way"]
    # Errors: one left out and one put in, none, one exchanged and one put in.
    assert METRICS["wer"](gold, said) == pytest.approx(4 / 9)
    assert METRICS["word_accuracy"](gold, said) == pytest.approx(5 / 9)
    assert METRICS["wer"].is_error
    # More words than were said make the rate larger than one.
    assert METRICS["word_accuracy"](["yes"], ["no no no"]) == -2
    # Of several right texts the nearest counts, and each character of a script without spaces is a word.
    assert METRICS["wer"]([("a b", "c d")], ["c d"]) == 0
    assert METRICS["wer"](["你好"], ["你"]) == 0.5
    assert METRICS["wer"](["x"], [""]) == 1


def test_numbers_are_shown_with_six_digits() -> None:
    assert [answer_text(value) for value in (7.0, 3.571150153875351, 1234567.0, "3.0", ("a", "b"))] == [
        "7",
        "3.57115",
        "1.23457e+06",
        "3.0",
        "a | b",
    ]
