"""Each finding from events such as a run writes; figures are checked, not wording."""

import json
from pathlib import Path
from typing import Any

import pytest

from overture.core.records.events import DataEvent, DivergedEvent, EpochEvent, Event, NormsEvent, StepEvent
from overture.core.records.scores import Comparison, Interval, SplitScores, Spread
from overture.core.records.tune import SeedResult, SeedSpread, TuneResult
from overture.evaluate.diagnose import diagnose
from overture.store.runs import Run

CONFIG = {"task": {"labels": {"good": " good", "bad": " bad"}}, "train": {"lr": 0.1, "clip": 1.0}}
SEED: dict[str, Any] = {
    "seed": 0,
    "status": "finished",
    "lr": 0.1,
    "trainable": 8,
    "seconds": 1.0,
    "peak_bytes": 1,
    "best_epoch": 1,
    "history": [],
}
SPREAD = Spread(mean=0.9, sd=None, low=None, high=None, n_seeds=1)


def scores(value: float, low: float, high: float, n: int) -> dict[str, SplitScores]:
    return {"test": SplitScores(scores={"accuracy": Interval(value=value, low=low, high=high, n=n)}, loss=0.5)}


def against(p_value: float, difference: float) -> Comparison:
    interval = Interval(value=difference, low=difference, high=difference, n=1000)
    facts: dict[str, Any] = {
        "metric": "accuracy",
        "a": 0.9,
        "b": 0.7,
        "test": "exact McNemar",
    }
    return Comparison(split="test", p_value=p_value, difference=interval, only_a=0, only_b=0, **facts)


def run_result(
    metrics: dict[str, SplitScores] | None = None, compared: dict[str, Comparison] | None = None
) -> TuneResult:
    return TuneResult(
        **SEED,
        run="mood-1",
        task="mood",
        metric="accuracy",
        method="vectors",
        place="after",
        length=5,
        rows={},
        metrics=metrics or scores(0.9, 0.88, 0.92, 1000),
        compared=compared or {"no_prompt": against(0.001, 0.2)},
        wrong=[],
        seeds=SeedSpread(validation=SPREAD, each=[], mean_seconds=1.0),
        total_seconds=1.0,
        notices=[],
    )


HEALTHY = run_result()
DATA = {
    "rows": {"train": 100, "validation": 50, "test": 1000},
    "repeats": {"train": 0, "validation": 0, "test": 0},
    "labels": {"train": {"good": 50, "bad": 50}},
    "words": {" good": 1, " bad": 1},
}
FALLING = [1.0 - 0.01 * step for step in range(64)]


TRAINING: dict[str, Any] = {"seed": 0, "num_epochs": 2, "num_steps": 64}


def step_event(step: int, loss: float, grad_norm: float = 0.5) -> StepEvent:
    return StepEvent(**TRAINING, epoch=0, step=step, loss=loss, grad_norm=grad_norm)


def epochs(*losses: tuple[float, float]) -> list[EpochEvent]:
    best = min(range(len(losses)), key=lambda i: losses[i][1])
    rest = {"validation_score": 0.5, "seconds": 1.0, **TRAINING}
    return [
        EpochEvent(epoch=i, train_loss=t, validation_loss=v, is_best=i >= best, **rest)
        for i, (t, v) in enumerate(losses)
    ]


USUAL_EPOCHS = epochs((0.6, 0.5), (0.4, 0.49))


@pytest.fixture
def make_run(tmp_path: Path):
    def make(
        losses: list[float] = FALLING,
        norms: dict[str, Any] | None = None,
        ends: list[EpochEvent] = USUAL_EPOCHS,
        result: TuneResult | None = HEALTHY,
        grad_norm: float = 0.5,
        predicted: tuple[Any, ...] = ("good", "bad"),
        more: tuple[Event, ...] = (),
        config: dict[str, Any] = CONFIG,
        **data: Any,
    ) -> Run:
        run = Run.create(tmp_path, "mood", config, lambda event: None)
        run.event(DataEvent(**{**DATA, **data}))
        for step, loss in enumerate(losses):
            run.event(step_event(step + 1, loss, grad_norm))
        usual = {"lengths": {"vectors": {"start": 1.0, "end": 1.5}}, "moved": 0.5, "embedding": 1.0, "lr": 0.1}
        for event in (*ends, *more, NormsEvent(seed=0, **{**usual, **(norms or {})})):
            run.event(event)
        run.write("seed-0/result.json", SeedResult(**SEED, metrics={}, predicted={"test": predicted}))
        run.status("finished" if result else "running")
        if result:
            run.write("result.json", result)
        return run

    return make


def names(run: Run) -> list[str]:
    return [one.name for one in diagnose(run)]


def test_nothing_to_say_of_a_good_run(make_run) -> None:
    assert diagnose(make_run()) == []


WORSE = {"in_context": against(0.001, -0.2)}
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("loss_flat", {"losses": [0.7] * 64}, "0.700 in the first steps, 0.700 in the last"),
    ("rate_too_low", {"losses": [0.7] * 64, "norms": {"moved": 0.001}}, "moved by 0.1%"),
    ("rate_too_high", {"losses": [1.0 + 0.05 * i for i in range(64)]}, "1.175 in the first steps"),
    ("diverged", {"more": (DivergedEvent(**TRAINING, epoch=0, step=4),)}, "at step 5, lr 0.1"),
    ("clipped", {"grad_norm": 30.0}, "100% of 64 steps over the clip of 1, median length 30"),
    ("overfitting", {"ends": epochs((0.6, 0.5), (0.2, 0.9))}, "from 0.500 to 0.900"),
    ("stopped_too_soon", {"ends": epochs((0.6, 0.8), (0.4, 0.5))}, "0.800, then 0.500, in 2 epochs"),
    ("norm", {"norms": {"lengths": {"vectors": {"start": 1.0, "end": 40.0}}}}, "40 against 1, 40 times"),
    ("norm", {"norms": {"lengths": {"keys": {"start": 2.0, "end": 0.1}}}}, "0.1 against 2, 0.05 times"),
    ("one_label", {"predicted": ("good", "good", "good")}, "'good' for each of 3 rows"),
    ("one_label", {"predicted": (("good", "bad"), ("good", "bad"))}, "'good | bad' for each of 2 rows"),
    ("one_label", {"predicted": ((("PER", 0, 3),),) * 2}, "'PER 0 3' for each of 2 rows"),
    ("leak", {"repeats": {"test": 7}}, "7 of 1000 test rows"),
    ("label_words", {"words": {" good": 1, " dreadful": 3}}, "' dreadful' 3 tokens"),
    ("imbalance", {"labels": {"train": {"good": 90, "bad": 10}}}, "'good' 90 of 100 rows (90%), 'bad' 10"),
    ("imbalance", {"labels": {"train": {"a": 30, "b": 30, "c": 40, "d": 1}}}, "'d' 1"),
    ("few_rows", {"result": run_result(scores(0.5, 0.3, 0.7, 20))}, "20 rows"),
    ("no_better_than_no_prompt", {"result": run_result(compared={"no_prompt": against(0.4, 0.01)})}, "+1.0 points"),
    (
        "no_better_than_in_context",
        {"result": run_result(compared={"in_context": against(0.001, -0.2)})},
        "-20.0 points",
    ),
    ("interrupted", {"result": None}, "killed; 2 epochs are done"),
]


@pytest.mark.parametrize(("name", "changes", "figures"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_finding(make_run, name, changes, figures) -> None:
    found = diagnose(make_run(**changes))
    assert [one.name for one in found] == [name]
    assert figures in found[0].evidence
    assert found[0].fix


def test_an_interrupted_training_gets_no_advice_on_epochs(make_run) -> None:
    run = make_run(ends=epochs((0.6, 0.8), (0.4, 0.5)), result=None)
    (run.folder / "seed-0" / "result.json").unlink()
    lines = (run.folder / "events.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "events.jsonl").write_text("".join(line for line in lines if '"norms"' not in line))
    (found,) = diagnose(run)
    assert (found.name, found.fix) == ("interrupted", f"overture resume {run.name}")


def test_few_test_rows_of_a_search_are_told(make_run) -> None:
    run = make_run(result=None, words={})
    request = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps({**request, "kind": "search"}))
    metrics = {split: part.dump() for split, part in scores(0.5, 0.3, 0.7, 18).items()}
    (run.folder / "result.json").write_text(json.dumps({"metric": "accuracy", "metrics": metrics, "trials": []}))
    (found,) = diagnose(run)
    assert (found.name, "18 rows" in found.evidence) == ("few_rows", True)


def test_a_fall_within_the_noise_of_batches_is_not_called_none(make_run) -> None:
    falling = [(5.0, 1.0)[step % 2] for step in range(32)] + [(3.5, 0.5)[step % 2] for step in range(32)]
    (noisy,) = diagnose(make_run(losses=falling))
    (flat,) = diagnose(make_run(losses=[0.7] * 64))
    assert noisy.name == flat.name == "loss_flat"
    assert noisy.what != flat.what
    assert "3.000 in the first steps, 2.000 in the last" in noisy.evidence
    assert "batches" in noisy.evidence


def test_batches_that_hide_the_fall_of_the_validation_loss_are_not_called_flat(make_run) -> None:
    (found,) = diagnose(make_run(losses=[0.7] * 64, ends=epochs((0.7, 0.9), (0.7, 0.6))))
    assert found.name == "stopped_too_soon"


def test_a_line_cut_by_a_kill_is_left_out(make_run) -> None:
    run = make_run()
    with open(run.folder / "events.jsonl", "a") as file:
        file.write('{"event": "step", "se')
    assert names(run) == []


def test_a_run_that_is_worked_on_is_not_interrupted(make_run) -> None:
    assert diagnose(make_run(result=None), is_running=True) == []


def test_steps_done_again_after_a_resume_count_once(make_run) -> None:
    rising = tuple(step_event(s + 1, 1.0 + s / 20) for s in range(64))
    assert names(make_run(more=rising)) == ["rate_too_high"]


def test_findings_of_runs_are_json(make_run) -> None:
    json.dumps([one.model_dump() for one in diagnose(make_run(losses=[0.7] * 64))])
