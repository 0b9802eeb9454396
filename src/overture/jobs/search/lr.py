"""The learning rate that a prompt learns best with, found in a few dozen steps."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from overture.core.meter import Meter
from overture.core.records.events import Listener, ignore
from overture.engine.backbone import Backbone
from overture.jobs.run.request import TuneConfig, check_no_adapter, fitting_place, with_slots
from overture.jobs.run.work import Work, prepared
from overture.jobs.search.options import LrConfig
from overture.prompt.config import PromptConfig
from overture.prompt.registry import own_rate
from overture.report.charts import save_chart
from overture.report.search_charts import rate_chart
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.options import TrainConfig
from overture.train.range_test import RangeTest, range_test


def find_rate(work: Work, prompt: PromptConfig, train: TrainConfig, seed: int, config: LrConfig) -> RangeTest:
    """A range test on a prompt of its own.

    Raises:
        Diverged: the loss is not finite from the start.
    """
    return range_test(
        work.fresh(prompt, seed),
        work.rows["train"],
        train,
        seed,
        config.low,
        config.high,
        config.steps,
        work.is_stop_asked,
        work.progress(f"trying rates for {prompt.method}-{prompt.place}"),
    )


def lr(
    request: TuneConfig,
    store: Store,
    config: LrConfig | None = None,
    *,
    out: Path | None = None,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
) -> dict[str, Any]:
    """Find the learning rate for a request; nothing is kept but the chart.

    Args:
        request: task, prompt and training.
        store: where a prompt to start from is looked up.
        config: the range.
        out: the chart's path without a suffix; no chart when None.
        listener: told of every event.
        is_stop_asked: looked at after each step.
        backbone: a loaded model; loaded by the task's name when None.

    Returns:
        What ``overture lr --json`` prints.

    Raises:
        UserError: task, data, model or options are wrong.
        Diverged: the loss is not finite from the start.
    """
    check_no_adapter(request, "lr")
    request = with_slots(fitting_place(request, backbone))
    own = own_rate(request.prompt)
    with TemporaryDirectory() as folder:
        work = prepared(Run(Path(folder), listener), request, store, is_stop_asked, backbone)
        # Only training rows are read.
        work.rows |= {"validation": [], "test": []}
        meter = Meter(work.backbone.device.type)
        with work.backbone.checkpointing(request.train.gradient_checkpointing):
            found = find_rate(work, request.prompt, request.train, request.seed, config or LrConfig())
    default = request.train.lr or own
    chart = rate_chart(found.rates, found.losses, found.smooth, found.suggested or default)
    return {
        "task": request.task.name,
        "method": request.prompt.method,
        "place": request.prompt.place,
        "length": request.prompt.length,
        "default": default,
        **asdict(found),
        "seconds": meter.seconds,
        "charts": save_chart(chart, out) if out else [],
        "notices": work.notices,
    }
