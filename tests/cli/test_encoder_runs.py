"""Encoders from a folder through whole runs: with a head over the vocabulary, and without."""

import pytest

import overture as package
from fakes import make_inner_tokenizer, make_model
from overture.core.errors import BackboneError
from overture.engine import load_backbone
from overture.engine.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A masked language model, and the body of one, as `save_pretrained` writes them."""
    found = {}
    for kind in ("whole", "body"):
        found[kind] = folder = tmp_path_factory.mktemp(kind)
        model = make_model("bert", "sdpa")
        (model if kind == "whole" else model.bert).save_pretrained(folder)
        make_inner_tokenizer("bert").save_pretrained(folder)
    return found


def test_the_class_is_chosen_by_what_the_weights_are(folders):
    whole, body = load_backbone(str(folders["whole"])), load_backbone(str(folders["body"]))
    assert (whole.has_head, body.has_head) == (True, False)
    assert whole.info.num_body_parameters > body.info.num_body_parameters
    assert (body.info.vocab_size, body.info.max_length, body.tokenizer.end_ids) == (300, 256, (257,))
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
