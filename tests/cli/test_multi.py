"""Several tasks at once: what they share, what they are taught, what is kept, and the command."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from overture.core.contracts import Readouts
from overture.engine.distil import distance, divergence, right
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.transfer import multi as study
from overture.jobs.transfer.multi import Single, _Multi, _Trainee
from overture.jobs.transfer.options import MultiConfig
from overture.jobs.transfer.several import all_prepared
from overture.store.artifact import load_artifact
from overture.store.runs import Run
from overture.store.store import Store

P, D = 3, 32


@pytest.fixture
def tasks(make_task, tmp_path: Path) -> dict[str, Path]:
    """Two label tasks and one of free text, on the same rows."""
    values = yaml.safe_load(make_task(shots=0).read_text())
    text = {key: value for key, value in values.items() if key != "labels"} | {
        "answer_field": "label",
        "max_new_tokens": 3,
    }
    found = {
        "a": {**values, "labels": {"good": " good", "bad": " bad"}},
        "b": {**values, "labels": {"good": " yes", "bad": " no"}},
        "t": text,
    }
    files = {}
    for name, own in found.items():
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump({**own, "name": name}))
    return files


@pytest.fixture
def made(tasks, tmp_path: Path) -> Callable[..., _Multi]:
    """The inside of a run, before anything is trained."""

    def make(names: str = "ab", config: MultiConfig | None = None, **settings: Any) -> _Multi:
        requests = [
            resolved(TuneConfig, tasks[name], {"method": "mpt", "place": "after", **settings}) for name in names
        ]
        store = Store(tmp_path / "s")
        return _Multi(all_prepared(Run(tmp_path), requests, store, lambda: False, None), config or MultiConfig(), "x")

    return make


@pytest.mark.parametrize("rank", [1, 2])
def test_trained_values_are_the_shared_once_and_each_tasks_own(made, rank: int) -> None:
    found = made("abt", prompt={"options": {"rank": rank}}).trainee.trainable()
    assert sum(value.numel() for value in found.values()) == P * D + 3 * rank * (P + D)
    assert [name for name in found if "shared" in name] == ["0.shared"]


@pytest.mark.parametrize("words", [["mpt"], ["attempt", "--set", "prompt.options.sources=[first]"]], ids=str)
def test_label_vectors_are_each_tasks_own(tasks, overture, words) -> None:
    overture("tune", "a.yaml", "--method", "vectors", "--place", "before", "--name", "first", "--json")
    vectors = ["--place", "before", "--set", "prompt.labels=vectors"]
    done = overture("multi", "a.yaml", "b.yaml", "--name", "x", "--method", *words, *vectors, "--json")
    assert done.code == 0, done.err
    for task in done.json["tasks"]:
        assert task["own_values"] >= 2 * D
        again = overture("eval", task["multi"]["prompt"], "test.jsonl", "--json").json["metrics"]
        (again,) = again.values()
        assert again["loss"] == pytest.approx(task["multi"]["metrics"]["test"]["loss"], abs=1e-5)
    (number,) = {one["multi"]["trainable"] - one["own_values"] for one in done.json["tasks"]}
    assert number == done.json["values"]["shared"]


def test_a_teacher_of_other_labels_is_refused(tasks, overture) -> None:
    values = yaml.safe_load(tasks["a"].read_text())
    more = {**values["labels"], "so so": " so"}
    tasks["b"].write_text(yaml.safe_dump({**values, "name": "b", "labels": more}))
    for name in "ab":
        overture("tune", tasks[name], "--method", "warp", "--place", "before", "--name", f"w{name}", "--json")
    words = ["a.yaml", "b.yaml", "--name", "x", "--method", "mpt", "--place", "before"]
    refused = overture("multi", *words, "--teacher", "wb", "--teacher", "wa", "--json")
    assert (refused.code, refused.json["got"]) == (2, "3 label vectors")


def test_each_row_counts_alike_whatever_its_task(made) -> None:
    found = made("at", MultiConfig(logits=0, hidden=0))
    mixed = [row for task in found.tasks for row in task.rows[:5]]
    labels, text = [task.model for task in found.tasks]
    rows = found.works[1].rows["train"][:5]
    each = [text.loss([row]) / text.weight([row]) for row in rows]
    torch.testing.assert_close(found.trainee.loss(mixed), labels.loss(found.works[0].rows["train"][:5]) + sum(each))
    assert found.trainee.weight(mixed) == 10
    values = found.trainee.trainable()
    gradients = torch.autograd.grad(found.trainee.loss(mixed), list(values.values()))
    assert all((gradient != 0).any() for gradient in gradients)


def test_teachers_add_their_predictions_and_hidden_states(made) -> None:
    found = made("ab", MultiConfig(logits=0.3, hidden=0.7, temperature=2.0))
    for task in found.tasks:
        # Any other prompt may teach.
        model = task.work.built(found.request.prompt.model_copy(update={"method": "vectors"}), 5)
        task.teacher = Single(model, measured=None, kept=None)
    found._teach()
    task = found.tasks[1]
    rows, own = task.rows[3:9], task.work.rows["train"][3:9]
    teacher, student = [model.ask(own, Readouts()) for model in (task.teacher.model, task.model)]
    backbone = task.work.backbone
    wanted = right(backbone, student, own) + 0.3 * divergence(backbone, teacher, student, 2.0)
    torch.testing.assert_close(found.trainee.loss(rows), (wanted + 0.7 * distance(teacher, student)).sum())


def test_how_a_batch_is_cut_changes_nothing(made) -> None:
    found = made("at", MultiConfig(logits=0.3, hidden=0.7))
    for task in found.tasks:
        model = task.work.built(found.request.prompt.model_copy(update={"method": "vectors"}), 5)
        task.teacher = Single(model, measured=None, kept=None)
    found._teach()
    rows = [row for task in found.tasks for row in task.rows[:5]]
    assert len({len(row.answer_ids or ()) for row in rows[5:]}) > 1
    values = list(found.trainee.trainable().values())
    whole, alone = found.trainee.loss(rows), sum(found.trainee.loss([row]) for row in rows)
    torch.testing.assert_close(whole, alone)
    torch.testing.assert_close(torch.autograd.grad(whole, values), torch.autograd.grad(alone, values))


@pytest.mark.parametrize("mixing", ["drawn", "all"])
def test_command(tasks, overture, mixing: str) -> None:
    words = [tasks["a"], tasks["b"], tasks["t"], "--name", "all", "--mixing", mixing]
    found = overture("multi", *words, "--json").json
    assert (found["status"], found["prompt"]) == ("finished", "all@1")
    assert found["weights"] == {"logits": 0.9, "hidden": 0.9}
    assert found["values"] == {"shared": P * D, "together": P * D + 3 * (P + D), "alone": 3 * P * D}
    assert [one["multi"]["prompt"] for one in found["tasks"]] == ["all-a@1", "all-b@1", "all-t@1"]
    for one in found["tasks"]:
        name = one["task"]
        manifest, tensors = load_artifact(Path(f"store/prompts/all-{name}/v1"))
        assert (manifest.method, manifest.task["name"], manifest.lineage.tasks) == ("mpt", name, ["a", "b", "t"])
        assert tensors["vectors"].shape == (P, D)
        assert one["compared"]["difference"]["n"] == 8
        score = overture("eval", f"all-{name}", "test.jsonl", "--json").json["metrics"]
        (split,) = score.values()
        assert split[one["metric"]]["value"] == one["multi"]["metrics"]["test"][one["metric"]]["value"]
    shared = load_artifact(Path("store/prompts/all/v1"))[1]["vectors"]
    assert not torch.equal(shared, load_artifact(Path("store/prompts/all-a/v1"))[1]["vectors"])


def test_command_for_people_and_what_it_says_next(tasks, overture) -> None:
    singles = overture("multi", tasks["a"], tasks["b"], "--name", "x", "--json").json["tasks"]
    teachers = [word for one in singles for word in ("--teacher", one["single"]["prompt"])]
    shown = overture("multi", tasks["a"], tasks["b"], "--name", "all", *teachers).out
    for text in ("mpt at after, 2 tasks", "values: 192 for all tasks alone, 166 together, 96 of them shared", "all@1"):
        assert text in shown
    for name in ("all", "all-a", "all-b", "x-a-single"):
        assert overture("show", name, "--json").code == 0
    assert not Path("store/prompts/all-a-single").exists()
    command = next(line for line in shown.splitlines() if "prompt.options.source" in line)
    again = overture(*command.replace("TASK.yaml", str(tasks["b"])).split()[1:], "--json")
    assert again.code == 0, again.err


def test_attempt_shares_its_attention(tasks, overture) -> None:
    overture("multi", tasks["a"], tasks["b"], "--name", "x", "--json")
    words = ["--method", "attempt", "--set", 'prompt.options={"sources": ["x-a-single", "x-b-single"], "width": 4}']
    found = overture("multi", tasks["a"], tasks["b"], "--name", "mixed", *words, "--json").json
    shared = 2 * 4 * D + 2 * D
    assert found["values"] == {"shared": shared, "together": shared + 2 * P * D, "alone": 2 * P * D}
    assert (found["prompt"], found["weights"]) == (None, {"logits": 0.0, "hidden": 0.0})
    tensors = [load_artifact(Path(f"store/prompts/mixed-{name}/v1"))[1] for name in "ab"]
    for name in ("down_weight", "up_weight", "norm_weight", "norm_bias"):
        assert torch.equal(tensors[0][f"state.{name}"], tensors[1][f"state.{name}"])
    assert not torch.equal(*[found["state.target"] for found in tensors])
    assert overture("predict", "mixed-b", "fine", "--json").code == 0


def test_a_stop_keeps_what_is_finished(tasks, overture, monkeypatch) -> None:
    run = study.Fit.run

    def second_is_stopped(fit):
        if isinstance(fit.trainee, _Trainee):
            os.kill(os.getpid(), signal.SIGINT)
        return run(fit)

    monkeypatch.setattr(study.Fit, "run", second_is_stopped)
    done = overture("multi", tasks["a"], tasks["b"], "--name", "x", "--json")
    assert (done.code, done.json["status"], done.json["prompt"]) == (130, "interrupted", None)
    assert [one["single"]["prompt"] for one in done.json["tasks"]] == ["x-a-single@1", "x-b-single@1"]
    assert "a-multi-a-single@1" in overture("multi", tasks["a"], tasks["b"]).out


def test_a_loss_that_diverges_is_an_error(tasks, overture, monkeypatch) -> None:
    loss = _Trainee.loss
    monkeypatch.setattr(_Trainee, "loss", lambda trainee, rows: loss(trainee, rows) * float("nan"))
    done = overture("multi", tasks["a"], tasks["b"], "--name", "x")
    assert done.code == 3
    assert "NaN or infinite" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.yaml"], "at least 2 task files"),
        (["a.yaml", "a.yaml"], "same name"),
        (["a.yaml", "b.yaml", "--method", "vectors"], "share nothing"),
        (["a.yaml", "b.yaml", "--method", "attempt"], "sources"),
        (["a.yaml", "b.yaml", "--teacher", "x"], "number of teachers"),
        (["a.yaml", "b.yaml", "--teacher", "x", "--teacher", "y"], "no such prompt"),
        (["a.yaml", "b.yaml", "--logits", "-1"], "logits"),
        (["a.yaml", "b.yaml", "--place", "memory"], "cannot enter"),
        (["a.yaml", "nowhere.yaml"], "no such file"),
    ],
)
def test_what_cannot_be_trained(tasks, overture, words, message) -> None:
    done = overture("multi", *words, "--name", "x")
    assert done.code == 2
    assert message in done.err
    assert overture("list", "--json").json["prompts"] == []
