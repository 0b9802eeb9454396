"""`--calibrated`: a stored prompt's label scores divided by those of rows without content."""

import json

import numpy as np
import pytest

import overture as package
from overture.core.errors import ConfigError

TEXTS = ["fine 200", "poor 201", "great 202"]
BLANKS = ["N/A", "[MASK]"]


def json_of(done):
    assert done.code == 0, done.err
    return done.json


def by_hand(prompt, texts):
    """W = diag(p_cf)^-1 and a softmax of W p, from what the prompt says without calibration."""
    free = np.mean([one.shares for one in prompt.predict(BLANKS)], axis=0)
    shares = np.array([one.shares for one in prompt.predict(texts)]) / free
    return shares / shares.sum(axis=1, keepdims=True)


def test_predictions_are_divided_by_those_without_content(tuned, overture):
    prompt = package.load("mood")
    wanted = by_hand(prompt, TEXTS)
    found = prompt.calibrated().predict(TEXTS)
    np.testing.assert_allclose([one.shares for one in found], wanted, atol=1e-6)
    assert np.abs(wanted - [one.shares for one in prompt.predict(TEXTS)]).max() > 1e-3
    back = prompt.calibrated().calibrated(False).predict(TEXTS)
    assert [one.shares for one in back] == [one.shares for one in prompt.predict(TEXTS)]
    lines = overture("predict", "mood", *TEXTS, "--calibrated").out.splitlines()
    shown = [list(json.loads(line)["probabilities"].values()) for line in lines]
    np.testing.assert_allclose(shown, wanted, atol=1e-5)
    both = json_of(overture("predict", "--prompt", "mood", "--calibrated", TEXTS[0], "--json"))["predictions"]
    np.testing.assert_allclose(list(both[0]["prompts"]["mood"]["probabilities"].values()), wanted[0], atol=1e-5)


def test_evaluation_tells_the_error_with_and_without(tuned, overture, tmp_path):
    plain = json_of(overture("eval", "mood", "--json"))
    assert "calibration" not in plain
    found = json_of(overture("eval", "mood", "--calibrated", "--json"))
    assert found["metrics"] == plain["metrics"]
    calibration = found["calibration"]
    assert calibration["stored"] == "without"
    assert calibration["without"]["metrics"] == plain["metrics"]
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    prompt = package.load("mood")
    shares = by_hand(prompt, [row["text"] for row in rows])
    gold = np.array([list(prompt.task.words).index(row["label"]) for row in rows])
    metrics = calibration["with"]["metrics"]["test"]
    assert metrics["accuracy"]["value"] == pytest.approx((shares.argmax(1) == gold).mean())
    assert metrics["ece"]["value"] == pytest.approx(error_of(shares, gold), abs=1e-5)
    assert metrics["loss"] == pytest.approx(-np.log(shares[range(len(gold)), gold]).mean(), abs=1e-5)
    gain = metrics["accuracy"]["value"] - plain["metrics"]["test"]["accuracy"]["value"]
    assert calibration["compared"]["difference"]["value"] == pytest.approx(gain)
    text = overture("eval", "mood", "--calibrated").out
    errors = [plain["metrics"]["test"]["ece"]["value"], metrics["ece"]["value"]]
    assert "Expected calibration error: {:.3f} without calibration, {:.3f} with it.".format(*errors) in text
    assert "the same without calibration" in text


def error_of(shares, gold):
    """Guo et al. 2017, equation 3, with numpy's own bins."""
    sure, right = shares.max(1), shares.argmax(1) == gold
    at = np.digitize(sure, np.arange(1, 15) / 15, right=True)
    each = [(at == bin_).mean() * abs(sure[at == bin_].mean() - right[at == bin_].mean()) for bin_ in set(at)]
    return sum(each)


def test_a_prompt_that_was_trained_with_it_is_measured_without(make_task, overture):
    json_of(overture("tune", make_task(options={"calibration": "contextual"}, shots=0), "--json"))
    found = json_of(overture("eval", "mood", "--calibrated", "--json"))
    assert found["calibration"]["stored"] == "with"
    assert found["calibration"]["with"]["metrics"] == found["metrics"]
    assert found["calibration"]["without"]["metrics"] != found["metrics"]
    assert "not calibrated" in overture("eval", "mood", "--calibrated").out


def test_kinds_without_labels_refuse_before_the_model_is_loaded(make_task, overture, monkeypatch):
    task = make_task(labels=None, answer_field="label", max_new_tokens=4, shots=0, train={"epochs": 1})
    json_of(overture("tune", task, "--json"))
    with pytest.raises(ConfigError, match="calibration needs labels"):
        package.load("mood").calibrated()

    def never(*args, **kwargs):
        raise AssertionError("loaded")

    monkeypatch.setattr("overture.evaluate.host.load_backbone", never)
    for words in (["eval", "mood"], ["predict", "mood", "some text"]):
        refused = overture(*words, "--calibrated", "--json")
        assert (refused.code, refused.json["error"]) == (2, "ConfigError")
        assert "generation" in refused.json["got"]
        assert refused.json["wanted"] == "classification"
