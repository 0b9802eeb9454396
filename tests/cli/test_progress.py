"""Progress of a run: the plan, the step it is at, the time that is left; bars that fit the screen."""

import io
import re

import pytest
from rich.console import Console

from overture.cli.progress import Bars, plan_text
from overture.core.records.events import (
    EpochEvent,
    NoticeEvent,
    PlanEvent,
    PlanStep,
    ProgressEvent,
    StageEvent,
    StepEvent,
)
from overture.report.whole import Whole

STEPS = [
    PlanStep(what="train", seconds=40),
    PlanStep(what="measure", seconds=10),
    PlanStep(what="examples", seconds=50),
]


def step(number: int) -> StepEvent:
    return StepEvent(seed=0, epoch=0, num_epochs=1, num_steps=100, step=number, loss=0.5, grad_norm=1.0)


def test_the_time_left_is_that_of_the_whole_job() -> None:
    now = 100.0
    whole = Whole(lambda: now)
    assert whole.left is None
    now += 5  # loading
    whole(PlanEvent(steps=STEPS))
    assert whole(StageEvent(number=1)) == "step 1 of 3: train"
    assert whole.left == pytest.approx(100)
    now += 10
    assert whole.left == pytest.approx(90)
    whole(step(1))
    now += 20
    whole(step(11))  # two seconds a step: 89 are left
    assert whole.left == pytest.approx(2 * 89 + 60)
    now += 178
    whole(StageEvent(number=2))
    # The first step took 208 s and not 40: so will the others.
    assert whole.left == pytest.approx(208 / 40 * 60)
    assert whole.elapsed == pytest.approx(5 + 208)
    now += 1000
    assert whole.left == pytest.approx(208 / 40 * 50)


def test_the_plan_is_told_with_its_time() -> None:
    lines = plan_text(STEPS).splitlines()
    assert "1 min 40 s" in lines[0]
    assert [line.split(". ")[1].split(" (")[0] for line in lines[1:]] == ["train", "measure", "examples"]


def test_a_plan_without_times_promises_none() -> None:
    assert plan_text([PlanStep(what="train"), PlanStep(what="race")]) == "plan:\n  1. train\n  2. race"
    assert plan_text([PlanStep(what="train", seconds=5), PlanStep(what="race")]).startswith("plan:\n  1. train (5.0 s)")


@pytest.mark.parametrize("width", [40, 80])
def test_bars_fit_the_screen_and_begin_at_zero(width: int) -> None:
    file = io.StringIO()
    bars = Bars(Console(file=file, width=width, force_terminal=True, color_system=None, legacy_windows=False))
    with bars.live():
        bars(PlanEvent(steps=STEPS))
        bars(StageEvent(number=1))
        bars(NoticeEvent(text="field 'Subject' is empty in 32 rows of the training file, which is no error"))
        bars(ProgressEvent(what="reading train inputs once", done=0, total=300))
        bars.progress.refresh()
        assert "0/300" in file.getvalue()
        bars(step(1))
        bars(EpochEvent(
            seed=0, epoch=0, num_epochs=4, num_steps=100, train_loss=1.0, validation_loss=1.0, validation_score=0.5,
            seconds=1.0, is_best=True,
        ))  # fmt: skip
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n")
    assert max(map(len, plain.split("\n"))) <= width
    # Words are never cut: what was said is there in one piece but for line breaks.
    text = " ".join(plain.split())
    assert "step 1 of 3: 0.0 s so far, about 1 min 40 s left in all" in text
    assert "field 'Subject' is empty in 32 rows of the training file, which is no error" in text
    assert "step 1 of 3: train" in text
    assert "validation score 0.500, the best so far" in text


def test_a_prompt_is_trained_before_the_baselines_are_measured(make_task, overture, tmp_path) -> None:
    done = overture("tune", make_task())
    assert done.code == 0
    lines = done.err.splitlines()
    first, second, third = (next(n for n, line in enumerate(lines) if f"step {k} of 3" in line) for k in (1, 2, 3))
    epochs = [number for number, line in enumerate(lines) if "validation loss" in line]
    assert lines.index(next(line for line in lines if line.startswith("plan, about"))) < first
    assert first < min(epochs)
    assert max(epochs) < second < third


def test_baselines_can_be_left_out(make_task, overture) -> None:
    done = overture("tune", make_task(), "--no-baselines", "--json")
    assert done.code == 0
    assert "step 1 of 1" in done.err
    assert done.json["compared"] == {}
    assert not {"no_prompt", "in_context"} & {name for name, value in done.json.items() if value}
    # For people, the table has the prompt alone.
    assert overture("tune", make_task(), "--no-baselines").code == 0
