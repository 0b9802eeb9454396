"""Rows whose answers a run tells after each epoch."""

import math

import pytest

from overture.data.row import Row
from overture.data.task import Task
from overture.evaluate.metrics import METRICS
from overture.evaluate.scoring import Scored
from overture.jobs.run.samples import SampleRows

LABELS = ("good", "bad", "mixed")


def rows_of(*texts):
    return [Row({"text": text, "label": "good"}, number, "rows.jsonl") for number, text in enumerate(texts, 1)]


def task_of(**changes):
    shape = changes or {"labels": {label: f" {label}" for label in LABELS}}
    return Task(**{"name": "mood", "data": {"path": "rows.jsonl"}, "template": "{text}:", **shape})


@pytest.mark.parametrize(
    ("gold", "numbers"),
    [
        # The first row of each answer, and the first of the others.
        (["good", "good", "good", "good", "bad", "good", "mixed"], (0, 1, 4, 6)),
        (["bad", "bad"], (0, 1)),
        ([f"text {number}" for number in range(9)], (0, 1, 2, 3)),
    ],
)
def test_rows_of_different_answers_are_shown(gold, numbers):
    sampled = SampleRows.of(task_of(), rows_of(*map(str, range(len(gold)))), gold)
    assert sampled.numbers == numbers
    assert [shown.text for shown in sampled.shown] == [str(number) for number in numbers]


def test_answers_are_those_of_the_scored_rows():
    sampled = SampleRows.of(task_of(), rows_of("x" * 500, "short"), ["good", "bad"])
    scored = Scored(("good", "bad"), ("good", "good"), 0.5, (0.75, math.nan))
    first, second = sampled.samples(scored, METRICS["accuracy"])
    assert (len(first.text), first.is_right, first.confidence) == (200, True, 0.75)
    # What diverged has no probability, and is no reason to fail.
    assert (second.predicted, second.gold, second.is_right, second.confidence) == ("good", "bad", False, None)


@pytest.mark.parametrize(("metric", "wanted"), [("rouge_l", (True, None)), ("exact_match", (True, False))])
def test_a_text_that_differs_is_wrong_only_by_a_metric_that_says_so(metric, wanted):
    task = task_of(kind="generation", answer_field="label")
    sampled = SampleRows.of(task, rows_of("one", "two"), ["a b c", "d e f"])
    samples = sampled.samples(Scored(("a b c", "d e f"), ("a b c", "d e g"), 0.5), METRICS[metric])
    assert tuple(sample.is_right for sample in samples) == wanted
