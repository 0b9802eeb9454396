"""Measure a stored prompt again, and its model without one."""

from collections.abc import Callable, Sequence

from overture.core.errors import BackboneError
from overture.core.kept_files import kept_inputs
from overture.core.meter import Meter
from overture.core.records.scores import Comparison, WrongRows
from overture.core.records.shares import KeptShares
from overture.core.records.tune import Calibration, Evaluation, Measured
from overture.core.rows import Encoded
from overture.data.row import Row
from overture.data.rows import gold_of
from overture.data.task import Task
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.doubt import Certainty, certainty_measured
from overture.evaluate.host import Handle
from overture.evaluate.intervals import paired_test
from overture.evaluate.scoring import Scored, check_answerable, score
from overture.evaluate.wrong import all_mistakes

Progress = Callable[[str, int, int], None]


def measured(
    prompt: Handle,
    rows: Sequence[Row],
    split: str,
    progress: Progress = lambda what, done, total: None,
    with_calibration: bool = False,
    notices: Sequence[str] = (),
    certainty: Certainty | None = None,
) -> tuple[Evaluation, WrongRows, KeptShares | None]:
    """Scores of a prompt and of its model without one, on the same rows.

    Args:
        prompt: the prompt on its model.
        rows: rows with labels or answers.
        split: name of the rows in the result.
        progress: called with (what, done, all).
        with_calibration: measure the prompt with and without contextual calibration.
        notices: notices from reading the rows.
        certainty: how answers say that they are not sure, to be measured; None where nobody asks.

    Returns:
        The scores, all rows that the prompt answers wrongly, and its label shares, where it has some.

    Raises:
        DataError: every row that cannot be used.
        ConfigError: calibration of a task that has none.
    """
    task, metric = prompt.task, prompt.task.metric
    opposite = prompt.calibrated(not task.is_calibrated) if with_calibration else None
    encoded = prompt.encoder.encode(rows)
    answers = gold_of(task, rows)
    cache = InputCache(files=kept_inputs())
    # Both read the same inputs: they run once, and neither is charged for them.
    prompt.model(cache).warm(encoded, lambda done, total: progress("reading inputs once", done, total))

    def scored(
        model: PromptedModel, stage: str, rows: Sequence[Encoded] = encoded, task: Task = task
    ) -> tuple[Scored, Measured]:
        meter = Meter(prompt.backbone.device.type)
        result = score(model, rows, task, answers, progress=lambda done, total: progress(stage, done, total))
        metrics = {split: result.split_scores(task)}
        return result, Measured(metrics=metrics, seconds=meter.seconds, peak_bytes=meter.peak_bytes)

    def compared(first: Scored, second: Scored) -> Comparison:
        test = paired_test(first.gold, first.predicted, second.predicted, metric)
        return Comparison(split=split, **test.model_dump())

    scores, costs = scored(prompt.model(cache), "scoring the prompt")
    calibration, no_prompt, against_no_prompt = None, None, None
    if opposite:
        other = scored(prompt.model(cache), "scoring with calibration", opposite.encoder.encode(rows), opposite.task)
        without, with_it = (other, (scores, costs)) if task.is_calibrated else ((scores, costs), other)
        stored = "with" if task.is_calibrated else "without"
        comparison = compared(with_it[0], without[0])
        calibration = Calibration(without=without[1], with_it=with_it[1], stored=stored, compared=comparison)
    control = PromptedModel(prompt.backbone, None, None if prompt.has_adapter else cache)
    alone = prompt.encoded_alone(rows, encoded)
    if _is_measurable(control, alone, task):
        control_scores, control_costs = scored(control, "scoring no prompt", alone)
        no_prompt = control_costs.model_copy(update={"trainable": 0})
        against_no_prompt = {"no_prompt": compared(scores, control_scores)}
    mistakes, all_wrong = all_mistakes(task, split, rows, scores.gold, scores.predicted, scores.confidence)
    evaluation = Evaluation(
        prompt=prompt.manifest.ref,
        metric=metric,
        split=split,
        metrics=costs.metrics,
        seconds=costs.seconds,
        peak_bytes=costs.peak_bytes,
        trainable=prompt.manifest.trainable,
        calibration=calibration,
        no_prompt=no_prompt,
        compared=against_no_prompt,
        certainty=certainty_measured(certainty, scores.gold, scores.predictions) if certainty else None,
        notices=[*notices, *prompt.encoder.notices, *(certainty.notes() if certainty else ())],
        **dict(mistakes),
    )
    return evaluation, all_wrong, scores.kept_shares(task, "file")


def _is_measurable(model: PromptedModel, rows: Sequence[Encoded], task: Task) -> bool:
    """Whether the model can answer at all: an encoder without a head needs its prompt's label vectors."""
    try:
        check_answerable(model, rows, task)
    except BackboneError:
        return False
    return True
