"""`overture lr`: find a learning rate by a range test of a few dozen steps."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from overture.core.meter import Meter
from overture.core.records.events import Listener, ignore
from overture.core.records.search import RateResult
from overture.engine.backbone import Backbone
from overture.jobs.run.request import TuneConfig, check_no_adapter, with_slots
from overture.jobs.run.settled import fitting_place
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
    """Run a range test on a new prompt, which is thrown away.

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
) -> RateResult:
    """Find the learning rate for a request; only the chart is kept.

    Args:
        request: task, prompt and training.
        store: where a prompt to start from is looked up.
        config: the range.
        out: the chart's path without a suffix; no chart when None.
        listener: called with each event.
        is_stop_asked: looked at after each step.
        backbone: a loaded model; loaded by the task's name when None.

    Raises:
        UserError: task, data, model or options are wrong.
        Diverged: the loss is not finite from the start.
    """
    check_no_adapter(request, "lr")
    request = with_slots(fitting_place(request, backbone))
    with TemporaryDirectory() as folder:
        work = prepared(Run(Path(folder), listener), request, store, is_stop_asked, backbone)
        # Only training rows are read.
        work.rows |= {"validation": [], "test": []}
        meter = Meter(work.backbone.device.type)
        with work.backbone.checkpointing(request.train.gradient_checkpointing):
            curve = find_rate(work, request.prompt, request.train, request.seed, config or LrConfig())
    default = request.train.lr or own_rate(request.prompt)
    chart = rate_chart(curve.rates, curve.losses, curve.smooth, curve.suggested or default)
    return RateResult(
        task=request.task.name,
        method=request.prompt.method,
        place=request.prompt.place,
        length=request.prompt.length,
        default=default,
        **asdict(curve),
        seconds=meter.seconds,
        charts=save_chart(chart, out) if out else [],
        notices=work.notices,
    )
