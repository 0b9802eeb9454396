"""Learning a start: each update by value, what tasks must share, stopping, and the command."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from overture.core.records.events import Event, StepEvent
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.transfer import meta as study
from overture.jobs.transfer.meta import meta
from overture.jobs.transfer.options import MetaConfig
from overture.store.artifact import load_artifact
from overture.store.store import Store
from overture.train.options import TrainConfig

LABELS = {"a": {"good": " good", "bad": " bad"}, "b": {"good": " yes", "bad": " no"}, "c": {"good": " up", "bad": " x"}}


@pytest.fixture
def tasks(make_task, tmp_path: Path) -> dict[str, Path]:
    """Three tasks on the same rows with other label words."""
    values = yaml.safe_load(make_task(shots=0).read_text())
    files = {}
    for name, labels in LABELS.items():
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump({**values, "name": name, "labels": labels}))
    return files


@pytest.fixture
def requests_of(tasks) -> Callable[..., list[TuneConfig]]:
    def make(names: str = "ab", **settings: Any) -> list[TuneConfig]:
        return [
            resolved(TuneConfig, tasks[name], {"method": "vectors", "place": "after", **settings}) for name in names
        ]

    return make


def values_of(store: Path, name: str) -> torch.Tensor:
    return load_artifact(store / "prompts" / name / "v1")[1]["vectors"]


def test_reptile_moves_by_all_steps_and_fomaml_by_the_last(requests_of, tmp_path: Path, monkeypatch) -> None:
    seen: list[list[torch.Tensor]] = []
    run = study.Fit.run

    def noting(fit):
        (value,) = fit.values.values()
        path = [value.detach().clone()]
        inner = fit.events

        def note(event: Event) -> None:
            if isinstance(event, StepEvent):
                path.append(value.detach().clone())
            inner(event)

        fit.events = note
        result = run(fit)
        seen.append(path)
        return result

    monkeypatch.setattr(study.Fit, "run", noting)
    for algorithm in ("reptile", "fomaml"):
        seen.clear()
        config = MetaConfig(steps=2, inner=3, rate=0.5, algorithm=algorithm)
        meta(requests_of(), Store(tmp_path / "s"), algorithm, config)
        first, second = seen[:2]
        assert len(first) == 1 + 3
        moved = [path[-1] - (path[0] if algorithm == "reptile" else path[-2]) for path in (first, second)]
        torch.testing.assert_close(second[0], first[0] + 0.5 * moved[0])
        torch.testing.assert_close(values_of(tmp_path / "s", algorithm), second[0] + 0.25 * moved[1])


def test_every_task_has_its_turn_and_the_seed_decides(requests_of, tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    config = MetaConfig(steps=6, inner=1)
    found = meta(requests_of("abc"), store, "one", config)
    order = [visit.task for visit in found.history]
    assert sorted(order[:3]) == sorted(order[3:]) == ["a", "b", "c"]
    assert meta(requests_of("abc"), store, "same", config).history == found.history
    assert torch.equal(values_of(store.root, "one"), values_of(store.root, "same"))
    meta(requests_of("abc", seed=1), store, "other", config)
    assert not torch.equal(values_of(store.root, "one"), values_of(store.root, "other"))


@pytest.mark.parametrize("algorithm", ["reptile", "fomaml"])
def test_few_steps_are_measured_from_both_starts(requests_of, tmp_path: Path, algorithm: str) -> None:
    config = MetaConfig(steps=20, inner=4, algorithm=algorithm)
    found = meta(requests_of(), Store(tmp_path / "s"), "x", config, unseen=requests_of("c"))
    assert [(one.task, one.is_unseen) for one in found.few_steps] == [("a", False), ("b", False), ("c", True)]
    for one in found.few_steps[:2]:
        assert one.learnt.loss < one.ordinary.loss
    assert found.few_steps[2].compared.difference.n == 8


def test_measured_are_steps_as_tuning_takes_them(requests_of, tmp_path: Path, monkeypatch) -> None:
    """A visit's steps all have the full rate; a user's own short training warms up."""
    taken: list[TrainConfig] = []
    run = study.Fit.run

    def noting(fit):
        taken.append(fit.config)
        return run(fit)

    monkeypatch.setattr(study.Fit, "run", noting)
    requests = requests_of()
    meta(requests, Store(tmp_path / "s"), "x", MetaConfig(steps=2, inner=2))
    visits, measured = taken[:2], taken[2:]
    assert {(one.schedule, one.warmup_steps) for one in visits} == {("constant", 0)}
    assert len(measured) == 4
    asked = requests[0].train.model_copy(update={"epochs": 1, "passes": 1})
    assert all(one == asked.model_copy(update={"lr": one.lr}) for one in measured)


@pytest.mark.parametrize("method", ["vectors", "prefix"])
def test_command(tasks, overture, method) -> None:
    words = [tasks["a"], tasks["b"], "--name", "start", "--method", method, "--steps", "4", "--inner", "2"]
    found = overture("meta", *words, "--json").json
    assert (found["status"], found["prompt"], found["tasks"]) == ("finished", "start@1", ["a", "b"])
    assert found["steps"] == len(found["history"]) == 4
    manifest, _ = load_artifact(Path("store/prompts/start/v1"))
    assert (manifest.method, manifest.lineage.meta, manifest.lineage.tasks) == (method, "reptile", ["a", "b"])
    shown = overture("meta", *words, "--algorithm", "fomaml", "--unseen", tasks["c"]).out
    for text in ("after 2 steps", "c (unseen)", "Learned start against the ordinary start", "Stored as start@2"):
        assert text in shown
    command = next(line for line in shown.splitlines() if "prompt.init=prompt" in line)
    assert overture(*command.replace("TASK.yaml", str(tasks["c"])).split()[1:], "--json").code == 0
    assert "--unseen TASK.yaml measures it" in overture("meta", *words).out


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["late", "--place", "after", "--set", "prompt.options.layer=1"], "--method late"),
        (["deep", "--place", "memory"], "--method prefix --place memory"),
        (["gated", "--place", "memory", "--set", "prompt.options.columns=false"], "--set prompt.options.columns=false"),
        (["split", "--place", "around"], "--method split --place around"),
    ],
)
def test_the_command_it_says_next_starts_a_task(tasks, overture, words, wanted) -> None:
    learnt = ["--name", "start", "--steps", "2", "--inner", "1", "--method", *words]
    shown = overture("meta", tasks["a"], tasks["b"], *learnt).out
    command = next(line for line in shown.splitlines() if "prompt.init=prompt" in line)
    assert wanted in command
    assert overture(*command.replace("TASK.yaml", str(tasks["c"])).split()[1:], "--json").code == 0


def test_a_stop_keeps_what_was_learnt(tasks, overture, monkeypatch) -> None:
    visited = study._Learner._visited

    def third_is_stopped(start, work, key, train):
        if key == "visit 2":
            os.kill(os.getpid(), signal.SIGINT)
        return visited(start, work, key, train)

    monkeypatch.setattr(study._Learner, "_visited", third_is_stopped)
    words = [tasks["a"], tasks["b"], "--name", "start", "--steps", "9", "--inner", "1"]
    done = overture("meta", *words, "--json")
    assert (done.code, done.json["status"], done.json["steps"], done.json["prompt"]) == (
        130,
        "interrupted",
        3,
        "start@1",
    )
    lineage = load_artifact(Path("store/prompts/start/v1"))[0].lineage
    assert (lineage.visits, lineage.visits_asked) == (3, 9)
    assert "stopped after 3 visits; what was learned is stored" in overture("meta", *words).out


def test_a_visit_that_diverges_moves_nothing(requests_of, tmp_path: Path, monkeypatch) -> None:
    step = study.Fit.take_step

    def diverging(fit, loss, weight):
        step(fit, float("nan") if fit.seed in bad else loss, weight)

    monkeypatch.setattr(study.Fit, "take_step", diverging)
    bad = {study.derived_seed(0, "meta", name, f"visit {number}") for name in "ab" for number in (1, 2)}
    found = meta(requests_of(), Store(tmp_path / "s"), "x", MetaConfig(steps=3, inner=2))
    assert [visit.loss is None for visit in found.history] == [False, True, True]
    assert any("moved nothing" in text for text in found.notices)
    bad |= {study.derived_seed(0, "meta", name, "visit 0") for name in "ab"}
    with pytest.raises(study.Diverged):
        meta(requests_of(), Store(tmp_path / "s"), "x", MetaConfig(steps=3, inner=2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.yaml"], "at least 2 task files"),
        (["a.yaml", "b.yaml", "--method", "warp"], "gives no start for other tasks"),
        (["a.yaml", "b.yaml", "--method", "lopa"], "gives no start for other tasks"),
        (["a.yaml", "b.yaml", "--method", "dept"], "gives no start for other tasks"),
        (["a.yaml", "b.yaml", "--method", "nothing"], "no such method"),
        (["a.yaml", "b.yaml", "--steps", "0"], "steps"),
        (["a.yaml", "b.yaml", "--algorithm", "maml"], "maml"),
        (["a.yaml", "nowhere.yaml"], "no such file"),
        (["a.yaml", "b.yaml", "--name", "A B"], "no name for a prompt"),
    ],
)
def test_what_cannot_be_learnt(tasks, overture, words, message) -> None:
    name = [] if "--name" in words else ["--name", "x"]
    done = overture("meta", *words, *name)
    assert done.code == 2
    assert message in done.err
    assert overture("list", "--json").json["prompts"] == []


def test_tasks_must_agree(tasks, overture) -> None:
    values = yaml.safe_load(tasks["b"].read_text())
    tasks["b"].write_text(yaml.safe_dump({**values, "prompt": {"length": 5}, "train": {**values["train"], "lr": 0.5}}))
    done = overture("meta", tasks["a"], tasks["b"], "--name", "x", "--json")
    assert done.code == 2
    assert "train.lr: 0.01 and 0.5" in done.json["got"]
    words = ["--length", "3", "--set", "train.lr=0.01", "--steps", "1", "--inner", "1"]
    assert overture("meta", tasks["a"], tasks["b"], *words, "--json").json["prompt"] == "a-meta@1"
