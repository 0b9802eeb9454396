"""What a search may choose from: the rates of a pair at every length."""

import json
import shlex
from dataclasses import replace
from itertools import pairwise

import pytest
from optuna.trial import FixedTrial

from overture.data.task import Task
from overture.jobs.search.options import SearchConfig, SearchRequest
from overture.jobs.search.space import Pair, Space, options_of
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.train.options import TrainConfig

PREFIX: Pair = ("prefix", "after")
OWN = METHODS["prefix"].learning_rate["after"]
TASK = Task(name="mood", data={"train": "r.jsonl"}, template="{text}:", labels={"good": " good", "bad": " bad"})


def space(length: int = 10, lr: float | None = None, found: float | None = None) -> Space:
    prompt = PromptConfig(method="prefix", place="after", length=length)
    config = SearchRequest(task=TASK, prompt=prompt, train=TrainConfig(epochs=5, lr=lr))
    return Space(config, [PREFIX, ("vectors", "after")], 4, 512, {PREFIX: found} if found else None)


@pytest.mark.parametrize(("length", "share"), [(5, 1.0), (30, 1.0), (60, 0.5), (100, 0.3)])
def test_a_method_s_own_rate_falls_with_length(length: int, share: float) -> None:
    assert space().rate(PREFIX, length) == pytest.approx(share * OWN)


@pytest.mark.parametrize(("length", "rate"), [(10, 0.5), (60, 0.25)])
@pytest.mark.parametrize("is_found", [False, True])
def test_a_known_rate_is_that_of_the_task_s_own_length(length: int, rate: float, is_found: bool) -> None:
    known = space(length, **({"found": rate} if is_found else {"lr": rate}))
    assert known.rate(PREFIX, length) == pytest.approx(rate)
    assert known.rate(PREFIX, 10) == pytest.approx(0.5)
    assert known.rate(PREFIX, 60) == pytest.approx(0.25)


def test_a_rate_that_was_given_is_only_its_pair_s() -> None:
    vectors = METHODS["vectors"]
    assert space(lr=0.5).rate(("vectors", "after"), 50) == vectors.rate("after", 50)


@pytest.mark.parametrize("length", [10, 50])
def test_the_task_s_own_setting_is_one_of_the_space_s(length: int) -> None:
    params = space(length, lr=0.2).default_params()
    assert params is not None
    assert params["lr_factor"] == pytest.approx(1)


@pytest.mark.parametrize("rows", [4, 512])
def test_the_flags_of_a_candidate_repeat_its_training(rows: int) -> None:
    asked = space(lr=0.2)
    own = asked.default()
    setting = replace(own, train=TrainConfig(lr=0.2).for_rows(rows))
    words = [shlex.split(word)[0] for word in asked.assignments(setting, 3)]
    values = dict(word.split("=", 1) for flag, word in pairwise(words) if flag == "--set")
    train = {name.removeprefix("train."): json.loads(text) for name, text in values.items() if "train." in name}
    # Whatever the rows: a number of epochs alone means single passes.
    assert TrainConfig(**train).for_rows(rows) == setting.train


@pytest.mark.parametrize(
    ("own", "asked", "num_passes", "is_own_in"),
    [({}, (), 12, True), ({}, (5, 9), 1, False), ({"epochs": 5}, (5, 9), 1, True), ({"passes": 3}, (5, 9), 3, True)],
)
def test_only_epochs_that_are_asked_for_are_single_passes(own, asked, num_passes: int, is_own_in: bool) -> None:
    config = SearchRequest(task=TASK, train=TrainConfig(**own), search=SearchConfig(epochs=asked))
    pair = (config.prompt.method, config.prompt.place)
    few = Space(config, [pair], 4, 16)
    prompt = {"prompt": " ".join(pair), "length": config.prompt.length, "init": config.prompt.init, "lr_factor": 1.0}
    trial = FixedTrial({**prompt, "epochs": few.epochs[-1]})
    found = few.setting(trial, 0).train
    assert (found.epochs, found.passes) == ((asked or (5,))[-1], num_passes)
    assert few.default().train == config.train.for_rows(16).model_copy(update={"lr": few.default().train.lr})
    assert (few.default_params() is not None) == is_own_in
    assert few.min_batches == num_passes


def test_options_of_another_method_are_a_layer_at_most() -> None:
    own = PromptConfig(method="late", options={"layer": 3})
    assert options_of(own, "late", 1) == {"layer": 3}
    assert options_of(own, "prefix", 1) == {}
    assert options_of(own.model_copy(update={"method": "prefix"}), "late", 1) == {"layer": 1}
