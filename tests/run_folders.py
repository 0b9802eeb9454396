"""Folders of runs as `overture tune` leaves them, without a training."""

import json
import math
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from overture.core.records.events import (
    EpochEvent,
    NoticeEvent,
    PlanEvent,
    PlanStep,
    Sample,
    SamplesEvent,
    StageEvent,
    StartEvent,
    StepEvent,
)
from overture.core.records.runs import RunStatus
from overture.core.records.scores import Interval, SplitScores, Spread
from overture.core.records.tune import SeedSpread, TuneResult
from overture.store.runs import RESULT, Run

STEPS, EPOCHS = 20, 6


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def add_run(
    root: Path, name: str = "mood", state: str = "finished", seeds: int = 2, epochs: int = EPOCHS, lr: float = 0.01
) -> Run:
    """A run of so many epochs that stands as the state says; one that is running is held by nobody."""
    config: dict[str, Any] = {
        "task": {"name": name, "labels": {"good": " good", "bad": " bad"}},
        "prompt": {"method": "prefix", "place": "after", "length": 10},
        "train": {"lr": lr, "clip": 1.0},
        "seeds": seeds,
    }
    run = Run.create(root / "runs", name, config, lambda event: None, file=f"{name}.yaml")
    began = time.time() - 60
    events: list[Any] = [
        StartEvent(run=run.name, folder=str(run.folder)),
        PlanEvent(
            steps=[PlanStep(what="the model without a prompt", seconds=5.0), PlanStep(what="training", seconds=60.0)]
        ),
        NoticeEvent(text="8 rows were shortened"),
        StageEvent(number=2),
        *_training(seeds, epochs),
    ]
    lines = [{**event.dump(), "time": moment(began + 50 * n / len(events))} for n, event in enumerate(events)]
    (run.folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    why = "KeyboardInterrupt: stopped" if state == "stopped" else None
    run.write("status.json", RunStatus(status=state, pid=os.getpid(), why=why))  # type: ignore[arg-type]
    if state == "finished":
        run.write(RESULT, _result(run.name, f"{name}@1"))
        wrong = {"where": "rows.jsonl:7", "text": "not my <cup> of tea", "gold": "bad", "predicted": "good"}
        wrong_rows = {"split": "test", "num_rows": 200, "wrong": [{**wrong, "confidence": 0.97, "score": 0.0}]}
        write_json(run.folder / "wrong.json", wrong_rows)
    return run


def add_epoch(run: Run) -> None:
    """One more epoch of the first seed, as a run that goes on writes it."""
    last = [event for event in _training(1, EPOCHS) if isinstance(event, SamplesEvent | EpochEvent)][-2:]
    with (run.folder / "events.jsonl").open("a") as file:
        file.writelines(json.dumps({**event.dump(), "time": moment(time.time())}) + "\n" for event in last)


def _result(name: str, prompt: str) -> TuneResult:
    score = Interval(value=0.875, low=0.83, high=0.91, n=200)
    scores = {"test": SplitScores(scores={"accuracy": score}, loss=0.31)}
    return TuneResult(
        run=name,
        prompt=prompt,
        task="mood",
        metric="accuracy",
        method="prefix",
        place="after",
        length=10,
        rows={"train": 64, "test": 200},
        metrics=scores,
        trainable=5120,
        seconds=3.0,
        peak_bytes=10**8,
        seed=0,
        status="finished",
        lr=0.01,
        best_epoch=5,
        history=[],
        compared={},
        seeds=SeedSpread(
            validation=Spread(mean=0.88, sd=None, low=None, high=None, n_seeds=1), each=[], mean_seconds=3.0
        ),
        total_seconds=6.0,
        notices=[],
    )


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values))


def _samples(epoch: int) -> list[Sample]:
    """Two rows; the second is answered rightly from the third epoch on."""
    second = "bad" if epoch > 1 else "good"
    return [
        Sample(text="a <fine> day", gold="good", predicted="good", confidence=0.91, is_right=True),
        Sample(text="no fun at all", gold="bad", predicted=second, confidence=0.6, is_right=second == "bad"),
    ]


def _training(seeds: int, epochs: int) -> list[Any]:
    events: list[Any] = []
    for seed in range(seeds):
        facts = {"seed": seed, "num_epochs": EPOCHS, "num_steps": EPOCHS * STEPS}
        for epoch in range(epochs):
            for step in range(epoch * STEPS, (epoch + 1) * STEPS):
                loss = 0.2 + 0.6 * math.exp(-step / 25) + 0.08 * math.sin(7 * step + seed)
                events.append(StepEvent(**facts, epoch=epoch, step=step + 1, loss=loss, grad_norm=1.0))
            losses = {
                "train_loss": 0.2 + 0.6 * math.exp(-epoch),
                "validation_loss": 0.3 + 0.4 * math.exp(-epoch) + 0.02 * seed,
            }
            events.append(SamplesEvent(seed=seed, epoch=epoch, samples=_samples(epoch)))
            score = 0.9 - 0.35 * math.exp(-epoch) - 0.02 * seed
            events.append(
                EpochEvent(**facts, epoch=epoch, **losses, validation_score=score, seconds=1.0 + epoch, is_best=True)
            )
    return events
