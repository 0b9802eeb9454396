"""Encoder-decoders from a folder through whole runs: labels and answers, prompts on either side."""

import pytest
import torch
from transformers import T5EncoderModel

import overture as package
from fakes import make_inner_tokenizer, make_model
from overture.core.errors import BackboneError
from overture.engine.load import load_backbone

LAYER = "prompt.options={layer: 1}"


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Models as `save_pretrained` writes them; the gated T5 has a head of its own."""
    found = {}
    for family in ("t5", "t5 gated", "bart"):
        found[family] = folder = tmp_path_factory.mktemp("model")
        make_model(family, "sdpa").save_pretrained(folder)
        make_inner_tokenizer(family).save_pretrained(folder)
    return found


@pytest.mark.parametrize("family", ["t5", "t5 gated", "bart"])
def test_a_folder_is_the_model_that_was_saved(folders, family):
    backbone, model = load_backbone(str(folders[family])), make_model(family)
    ids = torch.tensor([[40, 41, 42, 257]])
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :2]}
    torch.testing.assert_close(backbone.model(**given).logits, model(**given).logits, rtol=0, atol=2e-5)
    start = (257, 256) if family == "bart" else (261,)
    assert backbone.info.start_ids == start
    assert (backbone.text.tokenizer.bos_ids, backbone.text.tokenizer.end_ids) == (start[1:], (257,))
    assert (backbone.family.kind, backbone.info.max_length) == ("encoder-decoder", 256)
    assert backbone.info.num_layers == len(backbone.layers)


def test_half_of_an_encoder_decoder_is_refused(tmp_path):
    T5EncoderModel(make_model("t5").config).save_pretrained(tmp_path)
    make_inner_tokenizer("t5").save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=r"(?s)not a whole encoder-decoder.*T5EncoderModel"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "method", "place"),
    [
        ("t5", "prefix", "after"),
        ("t5 gated", "vectors", "before"),
        ("t5 gated", "prefix", "memory"),
        ("bart", "warp", "after"),
    ],
)
def test_labels_from_task_file_to_answers(folders, make_task, overture, family, method, place):
    task = make_task(backbone=str(folders[family]), template="{text} How do they feel?")
    done = overture("tune", task, "--method", method, "--place", place, "--json")
    assert done.code == 0, done.err
    assert done.json["no_prompt"]["metrics"]["test"]["accuracy"]["n"] == 8
    assert "in_context" not in done.json
    assert any("in-context" in notice for notice in done.json["notices"])
    assert overture("predict", "mood@1", "some text").json["label"] in ("good", "bad")
    assert overture("eval", "mood@1", "--json").json["compared"]["no_prompt"]["split"] == "test"
    assert overture("show", "mood@1").code == 0
    is_form_of_peft = (method, place) in (("prefix", "after"), ("vectors", "before"))
    assert overture("export", "mood@1", "out", "--to", "peft").code == (0 if is_form_of_peft else 2)
    if is_form_of_peft:
        again = overture("import", "out", "--task", task, "--json")
        assert again.code == 0, again.err
        assert again.json["prompt"] == "mood@2"
        both = [overture("predict", ref, "some text").json["probabilities"] for ref in ("mood@1", "mood@2")]
        assert both[0] == pytest.approx(both[1], abs=1e-6)


@pytest.mark.parametrize(("family", "method", "place"), [("t5", "vectors", "after"), ("bart", "late", "before")])
def test_answers_from_task_file_to_answers(folders, make_task, overture, family, method, place):
    changes = {"labels": None, "answer_field": "label", "max_new_tokens": 5, "template": "{text}"}
    options = ("--set", "prompt.options.layer=1") if method == "late" else ()
    task = make_task(backbone=str(folders[family]), **changes)
    done = overture("tune", task, "--method", method, "--place", place, *options, "--json")
    assert done.code == 0, done.err
    assert len(package.load("mood@1").predict(["a", "longer one"])) == 2


@pytest.mark.parametrize(
    ("changes", "options", "fix"),
    [
        ({"template": "{text} {mask}"}, (), "leave it out"),
        ({"read": "first"}, (), "leave read out"),
        ({}, ("--method", "cpt", "--length", "60"), "a decoder as --backbone"),
        ({"max_length": 6}, (), "too_long: trim"),
        ({"labels": {"good": " good" * 250, "bad": "b"}}, (), "shorten"),
    ],
)
def test_what_cannot_be_asked_is_one_error_before_anything_is_trained(
    folders, make_task, overture, changes, options, fix
):
    done = overture("tune", make_task(backbone=str(folders["t5"]), **changes), "--length", "12", *options)
    assert done.code == 2
    assert fix in " ".join(done.err.split())
    assert "seed 0" not in done.err


def test_a_text_and_its_answer_have_the_context_each_for_itself(folders, make_task, overture):
    # 30 tokens of text and 25 to come, each beside the prompt's three, where 40 are allowed.
    changes = {"labels": None, "answer_field": "label", "max_new_tokens": 25, "max_length": 40}
    task = make_task(backbone=str(folders["t5"]), template="{text} and so on and so on", **changes, train={"epochs": 1})
    assert overture("tune", task, "--json").code == 0


def test_words_stay_the_labels_wherever_the_prompt_stands(folders, make_task, overture):
    task = make_task(backbone=str(folders["t5 gated"]))
    plain, vectors = (
        overture("tune", task, "--method", "vectors", "--place", "before", *words, "--json").json["trainable"]
        for words in ((), ("--set", "prompt.labels=vectors"))
    )
    width = make_model("t5 gated").config.hidden_size
    assert (plain, vectors) == (3 * width, (3 + 2) * width)


def test_stored_prompts_start_those_of_their_own_side(folders, make_task, overture):
    """The gated T5 has another number of layers on each side."""
    task = make_task(backbone=str(folders["t5 gated"]), template="{text} How do they feel?", shots=0)
    prefix, start = ["--method", "prefix"], ["--set", "prompt.init=prompt", "--set", "prompt.init_prompt=enc"]
    for name, place in (("enc", "memory"), ("dec", "after"), ("other", "memory")):
        assert overture("tune", task, *prefix, "--place", place, "--name", name, "--json").code == 0
    assert overture("tune", task, *prefix, "--place", "memory", *start, "--json").code == 0
    refused = overture("tune", task, *prefix, "--place", "after", *start, "--json")
    assert (refused.code, refused.json["fix"]) == (2, "--place memory")
    found = overture("similar", "enc", "--json").json
    assert found["kind"] == "keys and values of the encoder"
    assert sorted(one["prompt"] for one in found["similar"]) == ["mood@1", "other@1"]
    assert found["left_out"] == {"keys and values of the decoder": 1}


def test_low_rank_changes_are_in_both_stacks_and_one_cache_serves_both(folders, make_task, overture):
    from overture.engine.cache import InputCache
    from overture.engine.lora import with_lora
    from overture.engine.options import LoraOptions
    from overture.engine.prompted import PromptedModel

    backbone = load_backbone(str(folders["t5 gated"]))
    other = with_lora(backbone, LoraOptions(rank=2))
    assert {name.partition(".")[0] for name in other.inner} == {"encoder", "decoder"}
    assert other.encoder is not None
    assert other.encoder.state == other.state != backbone.state
    task = make_task(backbone=str(folders["t5 gated"]))
    done = overture(
        "tune", task, "--method", "late", "--place", "before", "--adapter", "lora", "--set", LAYER, "--json"
    )
    assert done.code == 0, done.err
    assert PromptedModel(backbone, None, InputCache(10**6)).answerer.inputs.cache is not None


def test_baselines_beside_a_prompt(folders, make_task, overture, tmp_path):
    task = make_task(backbone=str(folders["t5 gated"]))
    few = ["--seeds", "1", "--size", "8", "--default-rates", "--min-steps", "2", "--json"]
    ways = ["none", "prefix-after", "bitfit:norms", "linear", "lora"]
    words = [word for way in ways for word in ("--way", way)]
    done = overture("compare", task, *words, *few, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    refused = overture("compare", task, "--way", "in-context", *few, "-o", tmp_path / "other")
    assert refused.code == 2
    assert "got an encoder-decoder" in refused.out.replace('": "', " ")
