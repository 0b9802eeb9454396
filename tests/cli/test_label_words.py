"""`overture words`: label words by their likelihood, against the untouched model of transformers."""

import json
import shlex

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from fakes import make_inner_tokenizer
from overture.hard import label_words as study
from overture.jobs.search import words as words_module

OWN = {"good": "ab", "bad": "ec"}


@pytest.fixture
def task(make_task):
    return make_task(labels=OWN)


def likelihoods(tiny, tmp_path):
    """Log-probabilities of every token behind each training row, by transformers: [N, V], with the labels."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny).eval(), make_inner_tokenizer("llama")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    found = []
    for row in rows:
        ids = torch.tensor([tokenizer.encode(f"{row['text']}\nMood:")])
        with torch.no_grad():
            found.append(model(ids).logits[0, -1].log_softmax(-1).double().numpy())
    return np.array(found), np.array([row["label"] for row in rows]), tokenizer


def test_words_are_the_models_own_by_likelihood_and_ratio(task, tiny, tmp_path, overture):
    found = overture("words", task, "--pool", "12", "--words", "5", "--json").json
    all_NV, labels_N, tokenizer = likelihoods(tiny, tmp_path)
    words = {token: text for text, token in tokenizer.get_vocab().items() if len(text) == 2 and text.isalpha()}
    for label, own in found["labels"].items():
        mean, other = all_NV[labels_N == label].mean(0), all_NV[labels_N != label].mean(0)
        pool = sorted(words, key=lambda token: -mean[token])[:12]
        best = sorted(pool, key=lambda token: other[token] - mean[token])[:5]
        assert [one["word"] for one in own] == [words[token] for token in best]
        np.testing.assert_allclose([one["log_likelihood"] for one in own], mean[best], atol=2e-4)
        np.testing.assert_allclose([one["ratio"] for one in own], (mean - other)[best], atol=2e-4)


def test_climbing_never_loses_on_training_rows_and_no_word_is_taken_twice(task, tiny, tmp_path, overture):
    found = overture("words", task, "--json").json
    all_NV, labels_N, tokenizer = likelihoods(tiny, tmp_path)
    right = {}
    for one in found["wordings"]:
        assert len(set(one["labels"].values())) == len(OWN)
        gold = np.array([list(one["labels"]).index(label) for label in labels_N])
        tokens = [tokenizer.encode(word)[0] for word in one["labels"].values()]
        right[one["name"]] = (all_NV[:, tokens].argmax(1) == gold).mean()
    assert right["climbed"] >= right["ratio"]
    assert {one["labels"]["good"] for one in found["wordings"] if one["name"] == "task file"} == {"ab"}


def test_validation_rows_choose_and_the_command_tunes_with_the_choice(task, overture):
    found = overture("words", task, "--json").json
    values = [one["metrics"]["accuracy"]["value"] for one in found["wordings"]]
    assert values == sorted(values, reverse=True)
    for one in found["wordings"]:
        settings = [f"labels={json.dumps(one['labels'])}", "shots=0", "train.epochs=1", "data.test=null"]
        words = [word for setting in settings for word in ("--set", setting)]
        again = overture("tune", task, *words, "--json").json
        plain = again["no_prompt"]["metrics"]["validation"]["accuracy"]
        assert plain["value"] == one["metrics"]["accuracy"]["value"]
    shown = overture("words", task)
    (line,) = [line.strip() for line in shown.out.splitlines() if line.strip().startswith("overture tune")]
    done = overture(*shlex.split(line)[1:], "--set", "train.epochs=1", "--json")
    assert done.code == 0, done.err
    prompt = overture("show", done.json["prompt"], "--json").json
    assert prompt["manifest"]["task"]["labels"] == found["wordings"][0]["labels"]


def test_where_the_task_s_own_words_win_the_command_repeats_none(task, overture, monkeypatch):
    def own_first(*words, **options):
        result = measured(*words, **options)
        wordings = sorted(result.wordings, key=lambda wording: wording.name != "task file")
        return result.model_copy(update={"wordings": wordings})

    measured = words_module.words
    monkeypatch.setattr(words_module, "words", own_first)
    shown = overture("words", task)
    assert shown.code == 0, shown.err
    assert shown.out.rstrip().endswith(f"overture tune {task}")


def test_every_assignment_is_climbed_to_where_no_single_word_helps():
    """Against all assignments: three labels of which each has one word that is always likelier in its rows."""
    labels_N = torch.arange(3).repeat(4)
    scores_NT = torch.zeros(12, 6)
    for number in range(3):
        scores_NT[labels_N == number, 3 + number] = 1.0
    found = study._hill_climbed([0, 1, 2], [[0, 3], [1, 4], [2, 5]], dict(enumerate("abcdef")), scores_NT, labels_N, 5)
    assert found == [3, 4, 5]
    alike = dict(enumerate("aaabbb"))
    assert study._first_assignment([[0, 1], [2, 3]], alike) == [0, 3]
    assert study._first_assignment([[0, 1], [2]], alike) is None


def test_labels_that_share_their_only_word_are_told(task, overture):
    found = overture("words", task, "--pool", "1", "--words", "1", "--json").json
    # The likeliest word is the same whatever the text: a random model hardly looks at it.
    assert len({own[0]["word"] for own in found["labels"].values()}) == 1
    assert [one["name"] for one in found["wordings"]] == ["task file"]
    assert "share too few words" in found["notices"][0]


def test_what_has_no_words_is_refused(make_task, overture, tmp_path):
    for changes, message in (
        ({"labels": None, "answer_field": "label"}, "label words are for tasks with labels"),
        ({"labels": {"good": " good", "bad": " bad"}}, "no words of one token"),
        ({"labels": {**OWN, "odd": "id"}}, "without training rows"),
        ({"labels": {"1": "ab", "2": "ec"}, "kind": "regression"}, "one label for each row"),
    ):
        path = make_task(**changes)
        if changes.get("kind"):
            for name in ("train", "validation", "test"):
                text = (tmp_path / f"{name}.jsonl").read_text()
                (tmp_path / f"{name}.jsonl").write_text(text.replace('"good"', "1").replace('"bad"', "2"))
        refused = overture("words", path, "--json")
        assert refused.code != 0
        assert message in refused.json["what"]


def test_encoders_need_a_mask(make_task, overture, tmp_path):
    from fakes import make_model

    make_model("bert", "sdpa").save_pretrained(tmp_path / "bert")
    make_inner_tokenizer("bert").save_pretrained(tmp_path / "bert")
    named = {"backbone": str(tmp_path / "bert"), "labels": OWN}
    found = overture("words", make_task(**named, template="{text} is {mask}."), "--json")
    assert found.code == 0, found.err
    assert {len(own) for own in found.json["labels"].values()} == {10}
    refused = overture("words", make_task(**named, template="{text}"), "--json")
    assert "{mask}" in refused.json["fix"]


def test_words_need_validation_rows(make_task, overture):
    data = {"path": "train.jsonl", "validation_share": 0}
    done = overture("words", make_task(labels=OWN, data=data), "--json")
    assert (done.code, done.json["where"]) == (2, "data.validation_share")
