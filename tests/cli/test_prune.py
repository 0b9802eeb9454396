"""Pruning: importances by value, what is chosen, rewinding, and the command."""

import os
from pathlib import Path

import pytest
import torch

from overture.core.injection import Injection, Vectors
from overture.core.records.events import Event
from overture.engine.prompted import PromptedModel
from overture.jobs.distil import prune as study
from overture.jobs.distil.options import PruneConfig
from overture.jobs.distil.prune import best_indices, importances, kept_pieces, prune
from overture.jobs.run.again import request_again
from overture.jobs.run.work import prepared
from overture.jobs.search import race as search_race
from overture.jobs.search.race import Lane
from overture.store import store as store_module
from overture.store.artifact import load_artifact
from overture.store.runs import Run
from overture.store.store import Store

LENGTH = 6


@pytest.fixture
def whole(make_task, overture) -> Path:
    """A stored prompt of six vectors; the folder of its store's root."""
    task = make_task(shots=0, prompt={"method": "vectors", "length": LENGTH})
    assert overture("tune", task, "--place", "after", "--json").code == 0
    return Path("store")


def test_importance_is_the_mean_size_of_each_rows_gradient(whole: Path, tmp_path: Path) -> None:
    manifest, tensors = load_artifact(whole / "prompts/mood/v1")
    store = Store(whole)
    work = prepared(Run(tmp_path), request_again(manifest, store, None), store, lambda: False, None)
    values = tensors["vectors"]
    tokens, pieces = importances(work, Injection(Vectors(values, "after")), 4)
    wanted_tokens, wanted_pieces = torch.zeros(LENGTH), torch.zeros(LENGTH, 4)
    for row in work.rows["train"]:
        own = values.clone().requires_grad_()
        PromptedModel(work.backbone, Injection(Vectors(own, "after"))).loss([row]).backward()
        by_value = (own.grad * values).view(LENGTH, 4, -1).sum(-1)
        wanted_pieces += by_value.abs() / len(work.rows["train"])
        wanted_tokens += by_value.sum(1).abs() / len(work.rows["train"])
    torch.testing.assert_close(pieces, wanted_pieces, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(tokens, wanted_tokens, rtol=1e-3, atol=1e-6)


def test_what_is_kept() -> None:
    scores = torch.tensor([0.1, 0.5, 0.3, 0.3])
    assert best_indices(scores, 0.5) == [1, 2]
    assert best_indices(scores, 0.75) == [1, 2, 3]
    assert best_indices(scores, 0.01) == [1]
    pieces = torch.tensor([[9.0, 9.0], [4.0, 1.0], [3.0, 2.0], [0.5, 0.0]])
    assert kept_pieces(pieces, [1, 2, 3], 0.5) == ([1, 2], ["10", "11"])
    assert kept_pieces(pieces, [1, 2, 3], 0.01) == ([1], ["10"])


def test_command(whole: Path, overture) -> None:
    words = ["prune", "mood", "--keep", "0.67", "--keep", "0.34", "--pieces", "4"]
    found = overture(*words, "--json").json
    assert (found["prompt"], found["pruned_from"]) == ("mood-pruned@1", "mood@1")
    assert [(one["level"], one["share"]) for one in found["candidates"]] == [
        ("tokens", 0.67),
        ("tokens", 0.34),
        ("pieces", 0.67),
        ("pieces", 0.34),
    ]
    assert [one["trainable"] for one in found["candidates"][:2]] == [4 * 32, 2 * 32]
    best = max(found["candidates"], key=lambda one: (one["score"], -one["loss"], -one["trainable"]))
    assert found["kept"] == {name: best[name] for name in ("tokens", "masks", "level", "share")}
    assert found["trainable"] == best["trainable"] < found["whole"]["trainable"] == LENGTH * 32
    assert found["compared"]["whole"]["split"] == "test"
    assert found["metrics"]["validation"]["accuracy"]["value"] == pytest.approx(best["score"])
    manifest, tensors = load_artifact(whole / "prompts/mood-pruned/v1")
    assert (manifest.method, manifest.length) == ("pruned", len(best["tokens"]))
    assert manifest.lineage.pruned_from == "mood@1"
    assert tensors["vectors"].shape == (len(best["tokens"]), 32)
    assert int((tensors["vectors"] != 0).sum()) == best["trainable"]
    again = overture("eval", "mood-pruned", "--json").json
    assert again["metrics"]["test"]["accuracy"] == found["metrics"]["test"]["accuracy"]
    assert overture("predict", "mood-pruned", "fine 1").code == 0
    assert overture(*words, "--json").json["prompt"] == "mood-pruned@2"
    _, same = load_artifact(whole / "prompts/mood-pruned/v2")
    assert torch.equal(same["vectors"], tensors["vectors"])


def test_label_vectors_stay_beside_what_is_left(make_task, overture) -> None:
    prompt = {"method": "vectors", "place": "after", "length": LENGTH, "labels": "vectors"}
    task = make_task(shots=0, prompt=prompt, train={"epochs": 6, "batch_size": 4, "lr": 0.05})
    measured = overture("tune", task, "--json").json["metrics"]["test"]
    found = overture("prune", "mood", "--keep", "0.5", "--pieces", "4", "--json").json
    assert found["whole"]["metrics"]["test"]["loss"] == pytest.approx(measured["loss"], abs=1e-5)
    kept = overture("eval", "mood-pruned", "--json").json["metrics"]
    assert kept["test"]["loss"] == pytest.approx(found["metrics"]["test"]["loss"], abs=1e-5)
    best = max(one["score"] for one in found["candidates"])
    assert found["metrics"]["validation"]["accuracy"]["value"] == pytest.approx(best)


def test_for_people(whole: Path, overture) -> None:
    done = overture("prune", "mood", "--keep", "0.5", "--pieces", "1", "--name", "small")
    assert done.code == 0
    for text in ("50% of the tokens", "whole prompt", "Pruned prompt against the whole prompt", "Stored as small@1"):
        assert text in done.out
    assert "50% of the tokens: epoch 1/2" in done.err


def test_the_rest_is_trained_as_the_whole_was(whole: Path, make_task, overture) -> None:
    """By hand, with the method itself, the result is the same bit for bit."""
    found = overture("prune", "mood", "--keep", "0.5", "--pieces", "1", "--json").json
    words = ["--method", "pruned", "--place", "after", "--set", f"prompt.options.tokens={found['kept']['tokens']}"]
    assert overture("tune", "task.yaml", "--name", "by-hand", *words, "--json").code == 0
    ours, theirs = [load_artifact(whole / f"prompts/{name}/v1")[1] for name in ("mood-pruned", "by-hand")]
    assert torch.equal(ours["vectors"], theirs["vectors"])


def test_a_reworded_winner_of_a_search_keeps_its_wording(make_task, overture, monkeypatch) -> None:
    def reworded(lanes: list[Lane], *_: object) -> Lane:
        # The first group, trials 0 and 1, has the task file's own wording.
        return next(lane for lane in lanes if lane.key.partition(" ")[2] not in ("0", "1"))

    monkeypatch.setattr(search_race, "winner_of", reworded)
    prompt = {"method": "vectors", "place": "after", "length": LENGTH}
    search = {"template": ["{text}\nIs it good or bad?"], "labels": [{"good": " great", "bad": " poor"}], "cohort": 4}
    task = make_task(prompt=prompt, search={**search, "method": ["vectors"], "place": ["after"]})
    won = overture("search", task, "--length", LENGTH, "--tunes", "16", "--json").json
    assert won["winner"]["wording"]
    pruned = overture("prune", "mood", "--keep", "0.5", "--pieces", "1", "--json").json
    assert pruned["whole"]["metrics"]["test"]["loss"] == pytest.approx(won["metrics"]["test"]["loss"], abs=1e-5)
    own, ours = [load_artifact(Path("store/prompts", name, "v1"))[0].task for name in ("mood", "mood-pruned")]
    assert ours == own
    again = overture("eval", "mood-pruned", "--json").json["metrics"]["test"]
    assert again["loss"] == pytest.approx(pruned["metrics"]["test"]["loss"], abs=1e-5)


def test_rows_of_a_task_file(whole: Path, overture, make_task, tmp_path: Path) -> None:
    words = ["--keep", "0.5", "--pieces", "1"]
    own = overture("prune", "mood", *words, "--json").json
    (tmp_path / "store/runs/mood-1/run.json").unlink()
    refused = overture("prune", "mood", *words, "--json")
    assert (refused.code, refused.json["fix"]) == (2, "name the task file after the prompt")
    given = overture("prune", "mood", "task.yaml", *words, "--json").json
    assert given["metrics"] == own["metrics"]
    other = overture("prune", "mood", make_task(template="{text}\nHow is it?"), *words, "--json")
    assert (other.code, other.json["got"]) == (2, "another template")


def test_what_cannot_be_pruned(tuned, whole: Path, overture, make_task) -> None:
    assert "method prefix at after" in overture("prune", "mood@1", "--json").json["got"]
    odd = overture("prune", "mood", "--pieces", "5", "--json")
    assert (odd.code, odd.json["fix"]) == (2, "--pieces 4")
    assert overture("prune", "mood", "--keep", "1.5").code == 2
    assert overture("prune", "mood", "--pieces", "0").code == 2
    assert overture("prune", "mood", "--name", "../x").code == 2
    assert overture("prune", "moood").code == 2
    one = make_task(shots=0, prompt={"method": "vectors", "length": 1, "place": "after"}, name="one")
    assert overture("tune", one, "--json").code == 0
    for words in (["one"], ["mood", "--keep", "0.95"]):
        assert "no token would be dropped" in overture("prune", *words).err


def test_a_store_that_cannot_be_written_is_told_before_training(whole: Path, overture, monkeypatch) -> None:
    monkeypatch.setattr(study.Work, "fit", lambda *_, **__: pytest.fail("something was trained"))
    monkeypatch.setattr(store_module.os, "access", lambda path, mode: not mode & os.W_OK)
    for words in (["prune", "mood"], ["tune", "task.yaml"]):
        refused = overture(*words, "--json")
        assert (refused.code, refused.json["error"]) == (2, "StoreReadOnly")


def test_a_candidate_that_diverges_is_not_chosen(whole: Path, monkeypatch) -> None:
    fit = study.Work.fit

    def failing(work, model, train, seed, checkpoint=None, who=""):
        result = fit(work, model, train, seed, checkpoint, who)
        if who.startswith("50%"):
            result.best.clear()
        return result

    monkeypatch.setattr(study.Work, "fit", failing)
    events: list[Event] = []
    found = prune("mood", Store(whole), PruneConfig(keep=(0.5, 0.34), pieces=1), listener=events.append)
    assert [candidate.loss is None for candidate in found.candidates] == [True, False]
    assert found.kept.share == 0.34
    with pytest.raises(study.Diverged):
        prune("mood", Store(whole), PruneConfig(keep=(0.5,), pieces=1))
