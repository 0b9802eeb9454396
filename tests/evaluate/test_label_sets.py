"""Sets of labels and withheld answers keep their promise on rows like those that were kept."""

import math
import random

import pytest
from scipy import stats

from overture.core.errors import ArtifactError, ConfigError
from overture.core.records.shares import Doubt, KeptShares, in_parts, kept_shares
from overture.core.rows import Prediction
from overture.data.task import Task
from overture.evaluate.doubt import (
    answer_threshold,
    binomial_tail,
    certainty_measured,
    certainty_of,
    fewest_answers,
    least_share,
    rows_for_coverage,
)
from overture.store.manifest import BackboneRef, Manifest

LABELS = ("a", "b", "c")
BACKBONE = BackboneRef(
    id="tiny", model_type="llama", hidden_size=8, num_layers=2, weights_sha256="w", tokenizer_sha256="t"
)


def task_of(kind="classification", **values):
    labels = {} if kind == "choice" else {"labels": {label: f" {label}" for label in LABELS}}
    options = {"options": {"choices_field": "choices"}} if kind == "choice" else {}
    return Task(name="t", kind=kind, data={"train": "x.jsonl"}, template="{text}\n", **labels, **options, **values)


def manifest_of(shares, task=None):
    made = {"method": "vectors", "place": "after", "length": 1, "trainable": 1}
    return Manifest(name="t", version=3, backbone=BACKBONE, task=(task or task_of()).dump(), shares=shares, **made)


def drawn(count, seed, sharpness=2.0, trust=1.0):
    """Rows of a model whose label is drawn from its shares, which are then sharpened: it is overconfident."""
    chance = random.Random(seed)
    pairs = []
    for _ in range(count):
        weights = [math.exp(sharpness * chance.gauss(0, 1)) for _ in LABELS]
        gold = chance.choices(range(3), weights)[0]
        sharp = [weight**trust for weight in weights]
        pairs.append((gold, [weight / sum(sharp) for weight in sharp]))
    return pairs


def predictions(pairs):
    return [
        Prediction(LABELS[max(range(3), key=shares.__getitem__)], tuple(shares), labels=LABELS, confidence=max(shares))
        for _, shares in pairs
    ]


def measured(kept, new, **doubt):
    certainty = certainty_of(manifest_of(kept_shares(kept, "file", False)), task_of(), Doubt(**doubt))
    return certainty_measured(certainty, [LABELS[gold] for gold, _ in new], predictions(new))


# -- sets


@pytest.mark.parametrize("trust", [0.5, 1, 4])
def test_sets_hold_the_right_label_however_wrong_the_shares_are(trust):
    """The mean coverage over many splits is at least what is wanted, and at most 1 / (n + 1) above."""
    n, wanted, held = 60, 0.9, 0.0
    for seed in range(120):
        held += measured(
            drawn(n, seed, trust=trust), drawn(100, 10_000 + seed, trust=trust), coverage=wanted
        ).sets.covered.value
    mean, spread = held / 120, math.sqrt(0.09 / (n + 2) / 120 + 0.09 / 12_000)
    assert wanted - 4 * spread <= mean <= wanted + 1 / (n + 1) + 4 * spread


def test_the_threshold_is_the_finite_sample_quantile():
    shares = list(range(100, 2000, 100))
    assert len(shares) == 19 == rows_for_coverage(0.95)
    assert least_share(shares, 0.95) == 100
    assert least_share(shares[1:], 0.95) == 0, "18 rows are too few, so all labels are in the set"
    assert least_share(shares, 0.5) == 1000
    assert rows_for_coverage(0.9) == 9


def test_too_few_rows_give_all_labels_and_say_so():
    certainty = certainty_of(manifest_of(kept_shares(drawn(10, 1), "file", False)), task_of(), Doubt(coverage=0.95))
    said = certainty.applied(predictions(drawn(1, 2))[0])
    assert sorted(said.label_set) == list(LABELS)
    assert any("too few" in note and "19" in note for note in certainty.notes())


def test_a_set_is_never_empty_and_begins_with_the_likeliest():
    sure = [(0, [0.99, 0.01, 0.0])] * 100
    certainty = certainty_of(manifest_of(kept_shares(sure, "file", False)), task_of(), Doubt(coverage=0.9))
    said = certainty.applied(Prediction("c", (0.3, 0.3, 0.4), labels=LABELS, confidence=0.4))
    assert said.label_set == ("c",)
    assert said.is_withheld is None
    assert "set" in task_of().spec.shown(task_of(), said)


# -- abstaining


def test_answers_that_are_given_are_right_as_often_as_promised():
    """Over many draws, the true precision above the threshold misses the promise in at most 5% of them."""
    new, wanted, missed, answered = drawn(10_000, 7, trust=3), 0.8, 0, []
    for seed in range(150):
        kept = [(in_parts(shares), gold) for gold, shares in drawn(250, 50 + seed, trust=3)]
        threshold = answer_threshold([(max(parts), parts.index(max(parts)) == gold) for parts, gold in kept], wanted)
        if threshold is None:
            continue
        given = [(gold, shares) for gold, shares in new if max(in_parts(shares)) > threshold.above]
        answered.append(len(given) / len(new))
        missed += sum(shares[gold] == max(shares) for gold, shares in given) < wanted * len(given)
    assert missed <= stats.binom.ppf(0.999, 150, 0.05)
    assert len(answered) > 100
    assert sum(answered) / len(answered) > 0.15


def test_the_binomial_tail_is_that_of_scipy():
    for least, n, share in [(0, 5, 0.9), (5, 5, 0.9), (180, 200, 0.85), (1990, 2000, 0.99), (3, 5, 0.01)]:
        assert binomial_tail(least, n, share) == pytest.approx(stats.binom.sf(least - 1, n, share), rel=1e-9)


def test_a_precision_that_cannot_be_promised_is_refused_with_what_is_missing():
    kept = kept_shares(drawn(30, 1), "file", False)
    with pytest.raises(ConfigError) as few:
        certainty_of(manifest_of(kept), task_of(), Doubt(abstain=0.95))
    assert str(fewest_answers(0.95)) in few.value.wanted
    noise = kept_shares([(number % 3, [0.4, 0.35, 0.25]) for number in range(600)], "file", False)
    with pytest.raises(ConfigError, match="no threshold"):
        certainty_of(manifest_of(noise), task_of(), Doubt(abstain=0.9))


def test_a_withheld_answer_shows_no_label_but_its_probabilities():
    # Right above 0.8, by chance below.
    sure = [(0, [0.9, 0.1, 0.0])] * 150
    unsure = [(number % 2, [0.6, 0.4, 0.0]) for number in range(150)]
    certainty = certainty_of(manifest_of(kept_shares(sure + unsure, "file", False)), task_of(), Doubt(abstain=0.9))
    task = task_of()
    given, withheld = (
        task.spec.shown(task, certainty.applied(Prediction("a", shares, labels=LABELS, confidence=shares[0])))
        for shares in ((0.9, 0.1, 0.0), (0.6, 0.4, 0.0))
    )
    assert (given["label"], given["abstained"]) == ("a", False)
    assert (withheld["label"], withheld["abstained"]) == (None, True)
    assert withheld["probabilities"]["b"] == 0.4
    result = certainty_measured(certainty, ["a", "b"], predictions([sure[0], unsure[1]]))
    assert (result.abstaining.answered.value, result.abstaining.precision.value) == (0.5, 1.0)


# -- what is kept


def test_kept_shares_come_back_rounded_and_small():
    pairs = [(2, [0.00001, 0.1, 0.89999]), (0, [1.0, 0.0, 0.0])]
    record = kept_shares(pairs, "validation", False)
    assert record.rows == "2:,1000,9000;0:10000,,"
    assert record.pairs() == [(2, (0, 1000, 9000)), (0, (10000, 0, 0))]
    assert KeptShares.model_validate(record.dump()) == record
    many = kept_shares(drawn(60_000, 1), "file", False)
    assert many.num_rows * 3 <= 50_000
    assert many.of_rows == 60_000
    assert len(many.rows) < 500_000


@pytest.mark.parametrize("rows", ["3:1,2,3", "0:20000,1,1", "0:1,2,3;1:1,2,3"])
def test_damaged_shares_are_refused(rows):
    with pytest.raises(ArtifactError, match="damaged"):
        KeptShares(source="file", num_rows=1, of_rows=1, rows=rows).pairs()


def test_what_cannot_tell_is_refused(monkeypatch):
    kept = kept_shares(drawn(50, 1), "file", False)
    with pytest.raises(ConfigError, match="no rows were kept"):
        certainty_of(manifest_of(None), task_of(), Doubt(coverage=0.9))
    with pytest.raises(ConfigError, match="scored otherwise"):
        certainty_of(manifest_of(kept), task_of().calibrated(), Doubt(coverage=0.9))
    multilabel = task_of("multilabel")
    with pytest.raises(ConfigError, match="one of several labels"):
        certainty_of(manifest_of(None, multilabel), multilabel, Doubt(abstain=0.9))
    assert certainty_of(manifest_of(None), task_of(), Doubt()) is None
