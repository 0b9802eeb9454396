"""Encoders from a folder through whole runs: with a head over the vocabulary, and without."""

import json
import shutil

import pytest
from tokenizers import normalizers

import overture as package
from fakes import make_inner_tokenizer, make_model
from overture.core.errors import BackboneError
from overture.data.task import Task
from overture.engine.load import load_backbone
from overture.engine.tokenizer import Tokenizer


def test_the_class_is_chosen_by_what_the_weights_are(folders):
    whole, body = load_backbone(str(folders["whole"])), load_backbone(str(folders["body"]))
    assert (whole.has_head, body.has_head) == (True, False)
    assert whole.info.num_body_parameters > body.info.num_body_parameters
    assert (body.info.vocab_size, body.info.max_length, body.text.tokenizer.end_ids) == (300, 256, (257,))
    assert body.head_rows([5, 6]).shape == (2, 32)


def test_an_encoder_made_a_decoder_is_refused(tmp_path):
    model = make_model("bert", "sdpa")
    model.config.is_decoder = True
    model.save_pretrained(tmp_path)
    make_inner_tokenizer("bert").save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="turned into a decoder"):
        load_backbone(str(tmp_path))


def test_bert_keeps_tokens_free_that_are_no_text():
    inner = make_inner_tokenizer("bert")
    assert not set(range(256)) & Tokenizer(inner, 9, is_encoder=True).special_ids
    inner.get_vocab = lambda: {"[unused0]": 1, "a": 2}
    assert {1, 256} <= Tokenizer(inner, 9, is_encoder=True).special_ids


def test_a_masked_language_model_from_task_file_to_answers(folders, make_task, overture):
    task = make_task(backbone=str(folders["whole"]), template="{text} is {mask}.", labels={"good": "g", "bad": "b"})
    done = overture("tune", task, "--method", "prefix", "--place", "memory", "--json")
    assert done.code == 0, done.err
    assert done.json["no_prompt"]["metrics"]["test"]["accuracy"]["n"] == 8
    assert "in_context" not in done.json
    assert any("in-context" in notice for notice in done.json["notices"])
    assert overture("predict", "mood@1", "some text").json["label"] in ("good", "bad")
    assert overture("eval", "mood@1", "--json").json["compared"]["no_prompt"]["split"] == "test"
    refused = overture("export", "mood@1", "out", "--to", "peft")
    assert refused.code == 2
    assert "--to npy" in refused.err


def test_what_is_not_asked_for_fits_an_encoder_without_a_head(folders, make_task, overture):
    done = overture("tune", make_task(backbone=str(folders["body"]), template="{text}"), "--json")
    assert done.code == 0, done.err
    # Keys and values before the text, and a vector for each of two labels.
    assert (done.json["method"], done.json["place"]) == ("prefix", "memory")
    assert done.json["trainable"] == 2 * 3 * 3 * 32 + 2 * 32
    assert overture("predict", "mood@1", "some text").json["label"] in ("good", "bad")


@pytest.mark.parametrize("read", ["first", "mean"])
def test_an_encoder_without_a_head_from_task_file_to_answers(folders, make_task, overture, read):
    task = make_task(backbone=str(folders["body"]), template="{text}", read=read)
    done = overture("tune", task, "--method", "warp", "--place", "before")
    assert done.code == 0, done.err
    assert "without a prompt could not be measured" in " ".join((done.out + done.err).split())
    found = overture("eval", "mood@1", "--json")
    assert "no_prompt" not in found.json
    assert found.json["metrics"]["test"]["accuracy"]["n"] == 8
    assert overture("eval", "mood@1").code == 0
    assert overture("show", "mood@1").code == 0
    assert len(package.load("mood@1").predict(["a", "longer one"])) == 2


@pytest.mark.parametrize(
    ("kind", "changes", "options", "fix"),
    [
        ("body", {"template": "{text}"}, ("--set", "prompt.labels=words"), "prompt.labels=vectors"),
        (
            "whole",
            {"template": "{text}", "labels": {"good": "g", "bad": "b"}},
            ("--set", "prompt.labels=words"),
            "{mask}",
        ),
        ("whole", {"template": "{text} {mask}", "labels": {"good": "good", "bad": "b"}}, (), "one token each"),
        (
            "whole",
            {"template": "{text} {mask}", "labels": {"good": "g", "bad": "b"}},
            ("--place", "after"),
            "--place memory",
        ),
        ("whole", {"template": "{text} {mask}", "labels": {"good": "g", "bad": "b"}}, ("--method", "cpt"), "decoder"),
        ("whole", {"template": "{text}", "labels": None, "answer_field": "label"}, (), "--backbone"),
    ],
)
def test_what_cannot_be_asked_is_one_error_before_anything_is_trained(
    folders, make_task, overture, kind, changes, options, fix
):
    done = overture("tune", make_task(backbone=str(folders[kind]), **changes), "--length", "12", *options)
    assert done.code == 2
    assert fix in " ".join(done.err.split())
    assert "seed 0" not in done.err


# -- a first task file that fits the model


def _first(overture, tmp_path, backbone, rows, *more):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    return overture("init", "rows.jsonl", "--backbone", str(backbone), "-o", "first.yaml", "--force", *more)


@pytest.fixture(scope="session")
def worded(folders, tmp_path_factory):
    """The masked language model with a vocabulary that, as BERT's, has no spaces."""
    folder = shutil.copytree(folders["whole"], tmp_path_factory.mktemp("worded") / "whole")
    inner = make_inner_tokenizer("bert")
    inner.backend_tokenizer.normalizer = normalizers.Strip()
    inner.save_pretrained(folder)
    return {**folders, "worded": folder}


@pytest.mark.parametrize(
    ("kind", "labels", "template", "reading"),
    [
        ("worded", "ab", "{text}\nLabel: {mask}", "mask"),
        ("worded", ("good", "bad"), "{text}", "mean"),
        ("body", "ab", "{text}", "mean"),
    ],
)
def test_a_first_task_file_fits_the_encoder(worded, overture, tmp_path, kind, labels, template, reading):
    rows = [{"text": f"a longer text {i}", "label": labels[i % 2]} for i in range(30)]
    assert _first(overture, tmp_path, worded[kind], rows).code == 0
    task = Task.load(tmp_path / "first.yaml")
    assert (task.template, task.reading, task.backbone) == (template, reading, str(worded[kind]))
    done = overture("tune", "first.yaml", "--length", "2", "--set", "train.epochs=1", "--json")
    assert done.code == 0, done.err
    assert done.json["status"] == "finished"


def test_an_encoder_tags_under_the_default_method(folders, overture, tmp_path):
    rows = [{"tokens": ["Ada", "saw", str(i)], "tags": ["B-PER", "O", "O"]} for i in range(20)]
    assert _first(overture, tmp_path, folders["body"], rows).code == 0
    assert Task.load(tmp_path / "first.yaml").template == "{tokens}"
    settings = ["--length", "2", "--set", "train.epochs=8", "--set", "train.batch_size=4"]
    done = overture("tune", "first.yaml", *settings, "--json")
    assert done.code == 0, done.err
    result = done.json
    assert (result["method"], result["place"]) == ("prefix", "memory")
    again = overture("eval", "rows", "--json").json
    metric = result["metric"]
    assert again["metrics"]["test"][metric]["value"] == pytest.approx(result["metrics"]["test"][metric]["value"])
    assert "spans" in overture("predict", "rows", json.dumps({"tokens": ["Ada", "saw", "it"]})).out


def test_an_encoder_has_no_first_file_for_answers(folders, overture, tmp_path):
    answers = [{"text": f"text {i}", "answer": f"answer {i}"} for i in range(20)]
    choices = [{"question": f"text {i}", "choices": ["a", "b"], "label": 0} for i in range(20)]
    for rows in (answers, choices):
        refused = _first(overture, tmp_path, folders["whole"], rows)
        assert refused.code == 2
        assert "an encoder writes no answers" in refused.err
