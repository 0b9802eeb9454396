"""What people read: progress lines, sentences, help texts, the demo's rows."""

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from overture.cli import demo, progress
from overture.cli.report import sentence
from overture.core.records.events import (
    DivergedEvent,
    EndEvent,
    EpochEvent,
    NoticeEvent,
    ProgressEvent,
    StartEvent,
    StepEvent,
)
from overture.core.records.scores import Interval, Paired
from overture.jobs.run.request import TuneConfig, resolved


def compared(value: float, low: float, high: float, p_value: float) -> Paired:
    difference = Interval(value=value, low=low, high=high, n=100)
    facts = {"metric": "accuracy", "a": 0.5, "b": 0.5, "test": "exact McNemar", "only_a": 0, "only_b": 0}
    return Paired(difference=difference, p_value=p_value, **facts)


SENTENCES = [
    (
        compared(0.05, 0.012, 0.088, 0.0123),
        "The tuned prompt is better than no prompt by 5.0 points, 95% interval 1.2 to 8.8, p = 0.012.",
    ),
    (
        compared(-0.05, -0.088, -0.012, 0.0001),
        "The tuned prompt is worse than no prompt by 5.0 points, 95% interval 1.2 to 8.8, p < 0.001.",
    ),
    (
        compared(0.01, -0.02, 0.04, 1.0),
        "Tuned prompt against no prompt: no difference could be shown (+1.0 points, 95% interval -2.0 to 4.0, p = 1).",
    ),
]


@pytest.mark.parametrize(("found", "text"), SENTENCES)
def test_sentence(found: Paired, text: str) -> None:
    assert sentence("no prompt", found) == text


TRAINING: dict[str, Any] = {"seed": 0, "num_epochs": 2, "num_steps": 8}
LOSSES = {"train_loss": 0.5, "validation_loss": 0.4, "validation_score": 0.75, "seconds": 1.0}
EVENTS = [
    StartEvent(run="mood-1", folder="runs/mood-1"),
    NoticeEvent(text="[red] is text"),
    *(ProgressEvent(what="reading train inputs once", done=n, total=3) for n in (1, 2, 3)),
    *(StepEvent(**TRAINING, epoch=0, step=n, loss=0.5, grad_norm=1.0) for n in (1, 2, 3, 4)),
    EpochEvent(**TRAINING, **LOSSES, epoch=0, is_best=True),
    *(StepEvent(**TRAINING, epoch=1, step=n, loss=0.5, grad_norm=1.0) for n in (5, 6, 7, 8)),
    DivergedEvent(**TRAINING, epoch=1, step=7),
    EndEvent(prompt="mood@1"),
]
LASTING = (
    "run mood-1 in runs/mood-1",
    "note: [red] is text",
    "seed 0: epoch 1/2: training loss 0.500, validation loss 0.400, validation score 0.750, the best so far",
    "seed 0: the loss became NaN or infinite at step 8; training ends here",
)


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show = progress.Lines(every_s=0)
    for event in EVENTS:
        show(event)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert set(LASTING) <= set(lines)
    assert "reading train inputs once: 3/3" in lines
    assert any(line.startswith("seed 0: training: 6/8, about ") and "best 0.750" in line for line in lines)


def test_few_lines_when_it_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    show = progress.Lines()
    for event in EVENTS:
        show(event)
    assert len(capsys.readouterr().err.splitlines()) == len(LASTING)


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    show = progress.Bars()
    with show.live():
        for event in EVENTS:
            show(event)
    assert show.progress.tasks == []
    out, err = capsys.readouterr()
    assert out == ""
    for line in LASTING:
        assert line in err


def test_demo_rows_are_as_described() -> None:
    folder = Path(str(files("overture.data").joinpath("demo")))
    labels = yaml.safe_load((folder / demo.TASK_FILE).read_text())["labels"]
    texts: set[str] = set()
    for name, count in {"train": 300, "validation": 120, "test": 300}.items():
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n") if line]
        assert len(rows) == count
        assert Counter(row["label"] for row in rows) == dict.fromkeys(labels, count // len(labels))
        texts |= {row["text"].lower() for row in rows}
    # No message is in two splits, and those that the demo tries are in none.
    assert len(texts) == 720
    assert not texts & {text.lower() for text in demo.SENTENCES}
    assert set(demo.SENTENCES.values()) <= set(labels)
    assert "Creative Commons Attribution 4.0" in " ".join((folder / "ATTRIBUTION.md").read_text().split())


def test_demo(overture, tiny, monkeypatch) -> None:
    def small(model: type[TuneConfig], path: Path, settings: dict) -> TuneConfig:
        sizes = [f"data.{name}_rows=8" for name in ("train", "validation", "test")]
        return resolved(model, path, {**settings, "backbone": str(tiny)}, [*sizes, "prompt.length=2", "shots=0"])

    monkeypatch.setattr(demo, "resolved", small)
    found = overture("demo", "--epochs", "1", "--json").json
    assert found["prompt"] == f"{demo.NAME}@1"
    assert len(found["predictions"]) == 3
    shown = overture("demo", "--epochs", "1")
    assert shown.err.startswith("This demo tunes a prompt that sorts")
    assert all(text in " ".join(shown.out.split()) for text in demo.SENTENCES)
    assert "overture init your.csv" in shown.out
