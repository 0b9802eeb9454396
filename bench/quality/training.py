"""One way of `overture compare`, trained and scored on given rows, as the quality scripts need it."""

from collections.abc import Mapping, Sequence
from typing import Any

from common import timed
from overture.core.meter import Meter
from overture.data.row import Row
from overture.data.task import Task
from overture.evaluate.scoring import Scored, score
from overture.jobs.compare.ways import Resources, Way
from overture.train.fit import Fit, Validation

SCORED = ("validation", "test")


def train_and_score(
    way: Way, resources: Resources, rows: Mapping[str, Sequence[Row]], seed: int, splits: Sequence[str] = SCORED
) -> dict[str, Any]:
    """Train a way at the learning rate of its request, or at its first one, and score it.

    Args:
        way: what is trained.
        resources: the model, and the store of prompts that a way begins with.
        rows: by split; validation rows choose the epoch.
        seed: of start and order.
        splits: those that are scored.

    Returns:
        Seconds, sizes and history of the training, and the scores of each split.
    """
    task, meter = way.config.task, Meter()
    made, building = timed(lambda: way.make(resources, rows, seed))
    cell: dict[str, Any] = {
        "trainable": made.num_trainable,
        "build_seconds": building["seconds"],
        "build_cpu_seconds": building["cpu_seconds"],
        "facts": made.facts,
    }
    if (trainee := made.trainee) is not None:
        # The inputs of the training rows run once where they can be kept; the training seconds do not contain it.
        _, reading = timed(lambda: made.warm(made.rows["train"]))
        made.warm(made.rows["validation"])
        config = way.config.train.model_copy(update={"lr": way.rates[0]})

        def validate() -> Validation:
            scored = score(made.model, made.rows["validation"], task)
            return Validation(scored.value(task), scored.loss)

        fitted, training = timed(lambda: Fit(trainee, made.rows["train"], validate, config, seed).run())
        cell |= {
            "train": config.model_dump(),
            "cache_seconds": reading["seconds"],
            "train_seconds": fitted.progress.seconds,
            "cpu_seconds_with_validation": training["cpu_seconds"],
            "best_epoch": fitted.progress.best_epoch,
            "status": fitted.status,
            "history": [epoch.dump() for epoch in fitted.progress.history],
        }
    cell |= {split: score_record(score(made.model, made.rows[split], task), task) for split in splits}
    return cell | {"stored_bytes": made.stored_bytes(), "peak_bytes": meter.peak_bytes}


def score_record(scored: Scored, task: Task) -> dict[str, Any]:
    """The scores of a split, with a digit for each row (1 is right), so that ways can be compared row by row."""
    right = "".join(str(int(gold == said)) for gold, said in zip(scored.gold, scored.predicted, strict=True))
    return {"accuracy": scored.value(task), "n": len(scored.gold), "loss": scored.loss, "right": right}
