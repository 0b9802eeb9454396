"""A prompt and an adapter in one run, from the command to the answers."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import overture as package
from overture.core.files import store_dir
from overture.core.records.events import StepEvent
from overture.engine.info import weights_digest
from overture.jobs.run.request import TuneConfig, resolved, tune_config
from overture.jobs.run.work import Work
from overture.prompt.registry import own_rate
from overture.store.store import Store

LORA = ("--adapter", "lora", "--set", "adapter.rank=2", "--set", "adapter.lr=0.01")


@pytest.mark.parametrize("method", [("prefix", "after"), ("idpg", "before"), ("split", "around")], ids=str)
@pytest.mark.parametrize("stage", ["joint", "prompt first", "adapter first"])
def test_prompt_and_adapter_are_trained_kept_and_used_together(make_task, overture, stage, method):
    name, place = method
    words = ("--method", name, "--place", place, "--set", f"adapter.stage={stage}", "--seeds", "1")
    done = overture("tune", make_task(), *LORA, *words, "--json")
    assert done.code == 0, done.err
    asked = {"rank": 2, "alpha": 16.0, "targets": [], "place": "everywhere", "kind": "lora", "stage": stage, "lr": 0.01}
    assert done.json["adapter"] == asked
    folder = Store(store_dir()).get("mood@1")
    tensors = load_file(folder / "prompt.safetensors")
    inner = {key: value for key, value in tensors.items() if key.startswith("adapter.")}
    assert len(inner) == 2 * 7 * 3
    assert any(value.any() for key, value in inner.items() if key.endswith("lora_B"))
    prompt = len(tensors) - len(inner)
    assert prompt > 0
    assert done.json["trainable"] > sum(value.numel() for value in inner.values())
    # What is stored is what was measured.
    again = overture("eval", "mood@1", "--json").json
    ours, kept = again["metrics"]["test"], done.json["metrics"]["test"]
    assert ours["accuracy"]["value"] == kept["accuracy"]["value"]
    assert ours["loss"] == pytest.approx(kept["loss"], abs=1e-5)
    assert again["no_prompt"]["metrics"]["test"]["loss"] == pytest.approx(
        done.json["no_prompt"]["metrics"]["test"]["loss"], abs=1e-5
    )
    assert overture("predict", "mood@1", "some text").json["label"] in ("good", "bad")


@pytest.mark.parametrize("stage", ["joint", "prompt first", "adapter first"])
def test_an_adapter_behind_the_input_shares_the_kept_texts(make_task, overture, stage):
    place = ("--set", "adapter.place=after", "--set", f"adapter.stage={stage}")
    done = overture("tune", make_task(), *LORA, *place, "--json")
    assert done.code == 0, done.err
    again = overture("eval", "mood@1", "--json").json
    assert again["metrics"]["test"]["loss"] == pytest.approx(done.json["metrics"]["test"]["loss"], abs=1e-5)
    prompt = package.load("mood@1")
    assert prompt.adapted.reader is prompt.backbone
    alone = again["no_prompt"]["metrics"]["test"]["loss"]
    assert alone == pytest.approx(done.json["no_prompt"]["metrics"]["test"]["loss"], abs=1e-5)
    assert alone != pytest.approx(again["metrics"]["test"]["loss"], abs=1e-5)


@pytest.mark.parametrize(
    "words", [("--method", "vectors", "--place", "before"), ("--method", "prefix", "--place", "memory")]
)
def test_an_adapter_behind_the_input_needs_a_prompt_there(make_task, overture, words):
    done = overture("tune", make_task(), *LORA, "--set", "adapter.place=after", *words)
    assert done.code == 2
    assert "adapter.place" in done.err


@pytest.mark.parametrize(("stage", "share"), [("joint", 1.0), ("prompt first", 1.0), ("adapter first", 0.1)])
def test_the_prompts_own_rate_is_lower_on_a_finished_adapter(make_task, stage, share):
    words = ["adapter.kind=lora", f"adapter.stage={stage}", "train.lr=null"]
    asked = tune_config(make_task(), words)
    assert asked.prompt_rate == pytest.approx(share * own_rate(asked.prompt))
    assert tune_config(make_task(), [*words, "train.lr=0.02"]).prompt_rate == 0.02


@pytest.mark.parametrize(("method", "place"), [("prefix", "memory"), ("idpg", "before"), ("warp", "before")])
def test_label_vectors_of_the_adapters_stage_are_those_the_prompt_begins_with(
    make_task, overture, monkeypatch, method, place
):
    begun, left, fit = [], [], Work.fit

    def labels_of(model) -> torch.Tensor:
        return model.prompt.labels.detach().clone()

    def watched(work, model, *others):
        begun.append(labels_of(model))
        found = fit(work, model, *others)
        left.append(labels_of(model))
        return found

    monkeypatch.setattr(Work, "fit", watched)
    words = ("--method", method, "--place", place, "--set", "adapter.stage=adapter first")
    done = overture("tune", make_task(prompt={"labels": "vectors"}), *LORA, *words, "--json")
    assert done.code == 0, done.err
    assert len(begun) == 2
    assert not torch.equal(left[0], begun[0])
    assert torch.equal(begun[1], left[0])


def test_the_model_that_was_handed_in_stays_as_it_is(make_task, overture):
    assert overture("tune", make_task(), *LORA, "--json").code == 0
    prompt = package.load("mood@1")
    assert prompt.has_adapter
    assert weights_digest(prompt.backbone.model) == weights_digest(package.load("mood@1").backbone.model)
    assert not any("lora" in key for key, _ in prompt.backbone.model.named_modules())
    assert prompt.adapted.is_frozen


def test_a_stopped_run_goes_on_bit_equal(make_task, overture, tmp_path, monkeypatch):
    task = make_task()
    words = (*LORA, "--set", "adapter.stage=adapter first", "--method", "prefix", "--place", "after")
    overture("tune", task, *words, "--name", "whole", "--json")
    from overture.jobs.api import _store
    from overture.jobs.tune.tune import resume, tune

    config = resolved(
        TuneConfig,
        task,
        {"adapter": "lora", "method": "prefix", "place": "after", "name": "cut"},
        ["adapter.rank=2", "adapter.lr=0.01", "adapter.stage=adapter first"],
    )
    for after in (3, 11):
        store = _store(tmp_path / f"store{after}")
        steps = []
        listen = lambda event, steps=steps: steps.append(1) if isinstance(event, StepEvent) else None  # noqa: E731
        stopped = tune(config, store, listen, lambda steps=steps, after=after: len(steps) >= after)
        assert stopped.status == "interrupted"
        done = resume(stopped.run, store)
        found = load_file(store.get(done.prompt) / "prompt.safetensors")
        whole = load_file(_store(None).get("whole") / "prompt.safetensors")
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[key], whole[key]) for key in whole)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("export", "mood@1", "out", "--to", "peft"), "cannot be exported"),
        (("prune", "mood@1"), "adapter"),
    ],
)
def test_what_needs_the_prompt_alone_is_refused(make_task, overture, words, what):
    done = overture("tune", make_task(), *LORA, "--method", "vectors", "--place", "before", "--json")
    assert done.code == 0, done.err
    refused = overture(*words)
    assert refused.code == 2
    assert what in " ".join(refused.err.split())


def test_a_prompt_with_an_adapter_is_no_start_for_another(make_task, overture):
    overture("tune", make_task(), *LORA, "--json")
    refused = overture("tune", make_task(), "--set", "prompt.init=prompt", "--set", "prompt.init_prompt=mood@1")
    assert refused.code == 2
    assert "together with an adapter" in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (("--adapter", "lorra"), "lora"),
        ((*LORA, "--set", "adapter.targets=[nothing_proj]"), "q_proj"),
        ((*LORA, "--set", "adapter.stage=later"), "joint"),
    ],
)
def test_wrong_adapters_are_one_error_before_training(make_task, overture, settings, what):
    done = overture("tune", make_task(), *settings)
    assert done.code == 2
    assert what in done.err
    assert json.dumps(what)


def test_without_peft_the_error_says_what_to_install(make_task, overture, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    done = overture("tune", make_task(), *LORA)
    assert done.code == 2
    assert re.search(r"pip install 'peft[<>=.,0-9]+'", done.err)
