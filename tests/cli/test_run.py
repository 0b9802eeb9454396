"""Tune, resume, eval, predict on a tiny model."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from overture.core.errors import ArtifactError, DiskFull
from overture.jobs.run.request import TuneConfig, resolved
from overture.prompt.methods import METHODS
from overture.store.artifact import load_artifact
from overture.train.fit import FitTogether


def test_tune_result(tuned: dict) -> None:
    assert (tuned["status"], tuned["prompt"], tuned["run"]) == ("finished", "mood@1", "mood-1")
    for split in ("validation", "test"):
        score = tuned["metrics"][split]["accuracy"]
        assert set(score) >= {"value", "low", "high", "n"}
        assert score["n"] == 8
    assert tuned["trainable"] > 0
    assert tuned["seconds"] > 0
    assert tuned["peak_bytes"] > 0
    assert set(tuned["compared"]) == {"no_prompt", "in_context"}


def test_tune_for_people(make_task, overture) -> None:
    done = overture("tune", make_task(), "--seeds", "2", "--name", "other")
    assert done.code == 0
    for text in ("no-prompt", "in-context (2)", "tuned prompt", "95% interval", "trained values", "peak memory"):
        assert text in done.out
    assert "Over 2 seeds: mean" in done.out
    assert "overture predict other@1" in done.out
    assert "seed 1: epoch 2/2: training loss" in done.err
    assert "run other-1 in" in done.err


def test_flags_become_settings(make_task, overture, tmp_path) -> None:
    words = ["--method", "vectors", "--place", "before", "--length", "2", "--set", "train.epochs=1", "--set", "shots=0"]
    found = overture("tune", make_task(), *words, "--cache-gb", "0.1", "--store", tmp_path / "elsewhere", "--json").json
    assert (found["method"], found["place"], found["length"]) == ("vectors", "before", 2)
    assert len(found["history"]) == 1
    assert "in_context" not in found
    assert Path(found["folder"]).is_relative_to(tmp_path / "elsewhere")


def test_few_rows_are_passed_over_more_often_unless_asked(make_task, overture) -> None:
    """16 rows in batches of 4: 5 epochs of 3 passes are 60 steps."""
    task = make_task(train={"batch_size": 4, "lr": 0.01, "patience": 5}, shots=0)
    found = overture("tune", task, "--json").json
    assert [one["epoch"] for one in found["history"]] == [*range(5)]
    (events,) = Path("store/runs").glob("*/events.jsonl")
    assert events.read_text().count('"event": "step"') == 60
    told = [json.loads(line) for line in events.read_text().splitlines()]
    samples = [event for event in told if event["event"] == "samples"]
    assert [event["epoch"] for event in samples] == [*range(5)]
    assert all(len({sample["gold"] for sample in event["samples"]}) > 1 for event in samples)
    trained = load_artifact(Path(found["folder"]))[0].options.train
    assert (trained["epochs"], trained["passes"]) == (5, 3)
    assert len(overture("tune", task, "--set", "train.epochs=1", "--json").json["history"]) == 1


def test_method_gets_its_own_place(make_task, monkeypatch) -> None:
    method = METHODS["vectors"]
    monkeypatch.setitem(METHODS, "vectors", replace(method, places=("before",)))
    assert resolved(TuneConfig, make_task(), {"method": "vectors"}).prompt.place == "before"
    given = {"method": "vectors", "place": "memory"}
    assert resolved(TuneConfig, make_task(), given, prompt_use="unused").prompt.place == "memory"
    assert resolved(TuneConfig, make_task(prompt=given), prompt_use="unused").prompt.place == "memory"
    assert resolved(TuneConfig, make_task(), {}, ["prompt.method=vectors"]).prompt.place == "before"


def test_settings_of_python(make_task) -> None:
    config = resolved(TuneConfig, make_task(), {"train": {"lr": 0.5}, "seeds": 3}, ["seeds=4"])
    assert (config.train.lr, config.train.epochs, config.seeds) == (0.5, 2, 4)


def test_data_given_as_a_setting_is_found_from_elsewhere(make_task, tmp_path, monkeypatch) -> None:
    config = resolved(TuneConfig, make_task(), {}, ["data.train=test.jsonl"])
    assert config.task.data.train == tmp_path / "test.jsonl"


def test_a_prompt_named_beside_the_option_is_told_to_be_a_text(tuned, overture) -> None:
    done = overture("predict", "mood", "--prompt", "mood", "fine")
    assert done.code == 0
    assert "--prompt mood" in done.err
    assert "note" not in overture("predict", "fine", "--prompt", "mood").err


def test_finished_run_tells_its_result_again(tuned, overture) -> None:
    assert overture("resume", "mood-1", "--json").json == tuned
    again = overture("resume", "mood-1")
    assert "came to its end already" in again.err
    assert "finished after" not in again.err
    assert "overture eval mood@1" in again.out
    assert overture("resume", "--json").json == {"runs": []}


def test_diverged_from_the_start(make_task, overture, monkeypatch) -> None:
    monkeypatch.setattr(FitTogether, "_gradients", lambda fit, batches, weights: dict.fromkeys(batches, math.nan))
    done = overture("tune", make_task(), "--json")
    assert (done.code, done.json["error"]) == (3, "Diverged")
    assert "smaller learning rate" in overture("tune", make_task()).err


def test_diverged_later_keeps_the_last_good_prompt(make_task, overture, monkeypatch) -> None:
    gradients = FitTogether._gradients

    def breaking(together, batches, weights):
        found = gradients(together, batches, weights)
        return dict.fromkeys(found, math.nan) if together.fits[0].progress.epoch else found

    monkeypatch.setattr(FitTogether, "_gradients", breaking)
    done = overture("tune", make_task(), "--json")
    assert (done.code, done.json["status"], done.json["prompt"]) == (3, "diverged", "mood@1")
    assert overture("predict", "mood", "fine 1", "--json").code == 0


@pytest.mark.parametrize("words", [["--json"], []])
def test_full_disk(make_task, overture, monkeypatch, words) -> None:
    from overture.train import fit

    def no_room(*_: object) -> None:
        raise DiskFull("the disk is full", where="checkpoint", fix="free some room and repeat; nothing was lost")

    task = make_task()
    with monkeypatch.context() as patch:
        patch.setattr(fit, "save_checkpoint", no_room)
        done = overture("tune", task, *words)
    assert done.code == 4
    if words:
        assert done.json["resume"] == "overture resume mood-1"
    else:
        assert "resume: overture resume mood-1" in done.err
        assert done.out == ""
    assert overture("resume", "--json").json["runs"][0]["state"] == "stopped"
    assert overture("resume", "mood-1", "--json").json["status"] == "finished"


def test_eval_gives_the_runs_scores_again(tuned, overture) -> None:
    found = overture("eval", "mood", "--json").json
    assert found["prompt"] == "mood@1"
    assert found["metrics"]["test"]["accuracy"] == tuned["metrics"]["test"]["accuracy"]
    assert found["no_prompt"]["metrics"]["test"]["accuracy"] == tuned["no_prompt"]["metrics"]["test"]["accuracy"]
    assert found["compared"]["no_prompt"]["difference"]["n"] == 8
    assert sum(map(sum, found["confusion"]["counts"])) == 8
    again = overture("eval", "mood@1", "--split", "validation", "--json").json
    assert again["metrics"]["validation"]["accuracy"] == tuned["metrics"]["validation"]["accuracy"]


def test_tune_and_eval_tell_the_same_mistakes(tuned, overture) -> None:
    found = overture("eval", "mood", "--json").json
    for name in ("num_wrong", "wrong", "confusion", "labels"):
        assert found[name] == tuned[name]
    assert sum(score["num_gold"] for score in tuned["labels"]) == 8
    assert tuned["num_wrong"] == len(tuned["wrong"]) > 0
    confidences = [row["confidence"] for row in tuned["wrong"]]
    assert confidences == sorted(confidences, reverse=True)
    assert min(confidences) >= 0.5
    kept = json.loads(Path("store/runs/mood-1/wrong.json").read_text())
    assert (kept["split"], kept["num_rows"], kept["wrong"]) == ("test", 8, tuned["wrong"])
    assert kept["wrong"][0]["where"].partition(":")[0].endswith("test.jsonl")


def test_eval_of_a_file(tuned, overture, tmp_path) -> None:
    (tmp_path / "more.csv").write_text("text;label\nfine;good\npoor;bad\ndull;bad\n")
    done = overture("eval", tuned["folder"], "more.csv", "--json")
    assert any("more.csv" in notice for notice in done.json["notices"])
    assert done.json["metrics"]["data"]["accuracy"]["n"] == 3
    shown = overture("eval", "mood", "more.csv")
    assert "right label (rows) against predicted label (columns)" in shown.out
    assert "tuned prompt" in shown.out


def test_predict_from_everywhere(make_task, overture, tmp_path, tiny, monkeypatch) -> None:
    (tmp_path / "model").symlink_to(tiny)
    assert overture("tune", make_task(backbone="./model")).code == 0
    texts = ["fine 1", "poor 2"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    lines = overture("predict", "mood", *texts).out.splitlines()
    monkeypatch.chdir(tmp_path)
    first = json.loads(lines[0])
    assert first["input"] == "fine 1"
    assert first["label"] in ("good", "bad")
    assert math.isclose(sum(first["probabilities"].values()), 1, abs_tol=1e-5)
    (tmp_path / "rows.jsonl").write_text('{"text": "fine 1", "other": 1}\n{"text": "poor 2"}\n')
    (tmp_path / "rows.csv").write_text("text\nfine 1\npoor 2\n")
    same = [
        overture("predict", "mood", "-", stdin="fine 1\r\npoor 2\n"),
        overture("predict", "mood", stdin='{"text": "fine 1"}\n{"text": "poor 2"}'),
        overture("predict", "mood", '{"text": "fine 1"}', "poor 2"),
    ]
    assert [done.out.splitlines() for done in same] == [lines] * len(same)
    for name, first_line in (("rows.jsonl", 1), ("rows.csv", 2), ("rows.txt", 1)):
        (tmp_path / "rows.txt").write_text("fine 1\npoor 2\n")
        found = [json.loads(line) for line in overture("predict", "mood", name).out.splitlines()]
        assert [one.pop("where") for one in found] == [f"{name}:{first_line}", f"{name}:{first_line + 1}"]
        assert [one.pop("row")["text"] for one in found] == ["fine 1", "poor 2"]
        assert found == [json.loads(line) for line in lines]
    whole = overture("predict", "mood", *texts, "--json").json
    assert whole == {"prompt": "mood@1", "predictions": [json.loads(line) for line in lines]}


def test_free_text_and_several_fields(make_task, overture, tmp_path) -> None:
    rows = [{"a": f"x{n}", "b": "y", "answer": "yes"} for n in range(20)]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = make_task(
        data={"path": "qa.jsonl"}, template="{a} {b}:", labels=None, answer_field="answer", max_new_tokens=4, shots=0
    )
    assert overture("tune", task, "--set", "train.epochs=1", "--json").code == 0
    done = overture("predict", "mood", '{"a": "x", "b": "y"}', "--json")
    assert set(done.json["predictions"][0]) == {"input", "answer"}
    assert done.json["predictions"][0]["input"] == {"a": "x", "b": "y"}
    refused = overture("predict", "mood", "only text")
    assert refused.code == 2
    assert "a JSON object with a, b" in refused.err
    assert overture("eval", "mood", "--json").json["metric"] == "exact_match"


def test_predict_under_several_prompts(tuned, make_task, overture, tmp_path) -> None:
    assert overture("tune", make_task(prompt={"length": 2, "place": "after"}), "--json").json["prompt"] == "mood@2"
    (tmp_path / "rows.jsonl").write_text('{"text": "fine 1", "other": 1}\n{"text": "poor 2"}\n')
    both = ("--prompt", "mood@1", "--prompt", "mood@2")
    done = overture("predict", "rows.jsonl", *both)
    found = [json.loads(line) for line in done.out.splitlines()]
    for name in ("mood@1", "mood@2"):
        alone = overture("predict", name, "fine 1", "poor 2", "--json").json["predictions"]
        for row, one in zip(found, alone, strict=True):
            assert row["input"] == one["input"]
            assert row["prompts"][name]["label"] == one["label"]
            assert row["prompts"][name]["probabilities"] == pytest.approx(one["probabilities"], abs=2e-6)
    assert found[0]["prompts"]["mood@1"] != found[0]["prompts"]["mood@2"]
    same = [
        overture("predict", *both, "fine 1", "poor 2"),
        overture("predict", "fine 1", "poor 2", *both),
        overture("predict", *both, stdin="fine 1\npoor 2\n"),
    ]
    texts_alone = [{key: value for key, value in row.items() if key not in ("where", "row")} for row in found]
    for each in same:
        assert [json.loads(line) for line in each.out.splitlines()] == texts_alone
    older = overture("predict", *both, "--file", "rows.jsonl")
    assert older.out == done.out
    assert "--file is now an argument" in older.err
    whole = overture("predict", "rows.jsonl", *both, "--json").json
    assert whole == {"prompts": {"mood@1": "mood@1", "mood@2": "mood@2"}, "predictions": found}
    for words, wanted in (
        (["x", "--prompt", "mood@1", "--prompt", "mood@1"], "named twice"),
        (["x", "--file", "rows.jsonl", *both], "a file cannot be combined with other arguments"),
        (["x", "--prompt", "mood@1", "--prompt", "moood"], "no such prompt"),
        (["--file", "rows.jsonl"], "no prompt is named"),
    ):
        refused = overture("predict", *words)
        assert refused.code == 2
        assert wanted in refused.err


def test_python_api(make_task) -> None:
    import overture

    result = overture.tune(make_task(), train={"epochs": 1}, shots=0)
    prompt = overture.load(result.prompt)
    assert prompt.predict(["fine 1"])[0].text in ("good", "bad")


def test_several_prompts_answer_together(make_task, monkeypatch) -> None:
    import overture
    from overture.core.files import store_dir
    from overture.evaluate.host import Ask, Host

    task = make_task(shots=0)
    refs = [
        overture.tune(task, train={"epochs": 1}, method=name, place="after").prompt for name in ("prefix", "vectors")
    ]
    store = overture.Store(store_dir())
    first = overture.load(refs[0])
    host = Host(first.backbone, store)
    requests = [Ask(host.open(ref), row) for row in ("fine 1", "poor old 2") for ref in refs]
    rows, tokens = ["fine 1", "poor old 2"], []
    run = first.backbone.run

    def counting(live, step, *layers):
        tokens.append(int(step.valid.sum()))
        return run(live, step, *layers)

    monkeypatch.setattr(first.backbone, "run", counting)
    replies = host.answer(requests)
    num_together = sum(tokens)
    tokens.clear()
    # Each on a host of its own, which has kept nothing.
    alone = [Host(first.backbone, store).open(ref).predict(rows) for ref in refs]
    num_inputs = sum(len(row.input_ids) for row in first.encoder.encode_fields([{"text": text} for text in rows]))
    assert sum(tokens) - num_together == num_inputs
    for number, predictions in enumerate(alone):
        for prediction, reply in zip(predictions, replies[number::2], strict=True):
            assert reply.result().text == prediction.text
            assert reply.result().probabilities == pytest.approx(prediction.probabilities, abs=1e-6)
    with pytest.raises(ArtifactError):
        host.answer([Ask(first, "fine 1")])


def test_files_of_the_task_s_own_format_are_scored_and_predicted(make_task, overture):
    rows = [{"text": f"word {i} " * 60, "label": "good" if i % 2 else "bad"} for i in range(12)]
    for name in ("rows.txt", "more.txt"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = make_task(data={"path": "rows.txt", "format": "jsonl"}, too_long="trim", max_length=100)
    assert overture("tune", task).code == 0
    done = overture("eval", "mood", "more.txt")
    assert done.code == 0, done.err
    assert "12 rows were shortened" in done.out + done.err
    assert len(overture("predict", "mood", "--file", "more.txt", "--json").json["predictions"]) == 12
    Path("more.csv").write_text("text\nhi\n")
    assert len(overture("predict", "mood", "--file", "more.csv", "--json").json["predictions"]) == 1


def test_a_run_is_followed_by_tensorboard(make_task, overture, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = overture("tune", make_task(), "--track", "tensorboard", "--json")
    assert done.code == 0, done.err
    written = EventAccumulator(str(tmp_path / "store/runs/mood-1/tensorboard")).Reload()
    score = done.json["metrics"]["test"]["accuracy"]["value"]
    assert written.Scalars("test/accuracy")[0].value == pytest.approx(score)
    losses = [point.value for point in written.Scalars("seed-0/validation_loss")]
    assert losses == pytest.approx([epoch["validation_loss"] for epoch in done.json["history"]])


def test_an_unknown_tracker_is_refused(make_task, overture) -> None:
    done = overture("tune", make_task(), "--set", "track=[tensorbord]", "--json")
    assert (done.code, done.json["error"]) == (2, "ConfigError")
