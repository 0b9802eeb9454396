"""Measure a stored prompt again: on its run's own rows, or on rows of a file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from overture.core.config import validated
from overture.core.errors import BackboneError, DataError
from overture.core.meter import Meter
from overture.core.rows import Encoded
from overture.data.read import read_rows_like
from overture.data.rows import Row, gold_of, shown_rows
from overture.data.splits import load_splits
from overture.data.task import Task
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.confusion import confusion
from overture.evaluate.host import Handle
from overture.evaluate.intervals import paired_test
from overture.evaluate.metrics import metric_named
from overture.evaluate.scoring import Scored, score
from overture.evaluate.wrong import wrong_rows
from overture.store.manifest import Manifest
from overture.store.runs import run_of
from overture.store.store import Store

Progress = Callable[[str, int, int], None]


def rows_of_run(store: Store, manifest: Manifest, split: str) -> tuple[str, list[Row]]:
    """The rows that a prompt's run scored it on.

    Args:
        store: where the run is.
        manifest: names the run.
        split: test or validation; test rows, or validation rows when there are none, if empty.

    Returns:
        The split and its rows.

    Raises:
        StoreError: the run is not in this store.
        DataError: its data cannot be read, or has no such rows.
    """
    run = run_of(store, manifest, "name rows to score with --data FILE")
    splits = load_splits(validated(Task, run.config().get("task"), str(run.folder / "run.json")))
    chosen = split or ("test" if splits.test else "validation")
    rows: list[Row] = getattr(splits, chosen)
    if not rows:
        raise DataError(f"the run has no {chosen} rows", where=run.name, fix="name rows to score with --data FILE")
    return chosen, rows


def rows_of_file(path: Path, task: Task) -> list[Row]:
    """The rows of a file for a task.

    Raises:
        DataError: every line that cannot be read.
    """
    rows, lines = read_rows_like(path, task.data.format)
    return [Row(fields, line, str(path)) for fields, line in zip(rows, lines, strict=True)]


def measured(
    prompt: Handle,
    rows: Sequence[Row],
    split: str,
    progress: Progress = lambda what, done, total: None,
    with_calibration: bool = False,
) -> dict[str, Any]:
    """Scores of a prompt and of its model without one, on the same rows.

    Args:
        prompt: the prompt on its model.
        rows: rows with labels or answers.
        split: what the rows are called in the result.
        progress: called with (what, done, all).
        with_calibration: measure the prompt with and without contextual calibration.

    Returns:
        As the result of a run, with the confusion table of label tasks; `calibration` has the scores `without` and
        `with` it, which of them is the prompt as it is `stored`, and the paired test of one against the other.

    Raises:
        DataError: every row that cannot be used.
        ConfigError: calibration of a task that has none.
    """
    other = prompt.calibrated(not prompt.task.is_calibrated) if with_calibration else None
    encoded = prompt.encoder.encode(rows)
    answers = gold_of(prompt.task, rows)
    cache = InputCache()
    # Both read the same inputs: they run once, and neither is charged for them.
    prompt.model(cache).warm(encoded, lambda done, total: progress("reading inputs once", done, total))

    def one(
        model: PromptedModel, what: str, rows: Sequence[Encoded] = encoded, task: Task = prompt.task
    ) -> tuple[Scored, dict[str, Any]]:
        meter = Meter(prompt.backbone.device.type)
        found = score(model, rows, task, answers, progress=lambda done, total: progress(what, done, total))
        metrics = {name: value.model_dump() for name, value in found.metrics(task).items()}
        facts = {"seconds": meter.seconds, "peak_bytes": meter.peak_bytes}
        return found, {"metrics": {split: {**metrics, "loss": found.loss}}, **facts}

    tuned, of_prompt = one(prompt.model(cache), "scoring the prompt")
    result = {"metric": prompt.task.metric, "split": split, **of_prompt, "trainable": prompt.manifest.trainable}
    if other:
        again, of_other = one(prompt.model(cache), "scoring with calibration", other.encoder.encode(rows), other.task)
        ways = {other.task.is_calibrated: (again, of_other), prompt.task.is_calibrated: (tuned, of_prompt)}
        paired = paired_test(tuned.gold, ways[True][0].predicted, ways[False][0].predicted, prompt.task.metric)
        result["calibration"] = {
            "without": ways[False][1],
            "with": ways[True][1],
            "stored": "with" if prompt.task.is_calibrated else "without",
            "compared": {"split": split, **paired.model_dump()},
        }
    control = PromptedModel(prompt.backbone, None, None if prompt.has_adapter else cache)
    if _is_measurable(control, encoded[:1]):
        plain, of_model = one(control, "scoring no prompt")
        paired = paired_test(tuned.gold, tuned.predicted, plain.predicted, prompt.task.metric)
        result |= {
            "no_prompt": {**of_model, "trainable": 0},
            "compared": {"no_prompt": {"split": split, **paired.model_dump()}},
        }
    shown = shown_rows(prompt.task, rows)
    result["wrong"] = [row.model_dump() for row in wrong_rows(prompt.task.metric, tuned.gold, tuned.predicted, shown)]
    if metric_named(prompt.task.metric).of == "labels" and prompt.task.labels:
        result["confusion"] = confusion(tuned.gold, tuned.predicted, tuple(prompt.task.words)).model_dump()
    return result


def _is_measurable(model: PromptedModel, rows: Sequence[Encoded]) -> bool:
    """Whether the model can answer at all: an encoder without a head needs its prompt's label vectors."""
    try:
        model.check(rows)
    except BackboneError:
        return False
    return True
