"""Summary of a comparison's cells: scores, paired tests, worth in rows, costs, advice."""

import itertools
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean

from overture.core.records.cells import (
    JOULES_PER_KWH,
    NO_PROMPT,
    WORK,
    Accounts,
    Cell,
    FailedCell,
    Plan,
    RateChoice,
    Request,
    RightAnswers,
    ScoredCell,
    TrainedCell,
)
from overture.core.records.compare import (
    OVER_SEEDS,
    Against,
    Cost,
    Enough,
    Facts,
    MetricMean,
    Pair,
    Shares,
    Summary,
    WayMetrics,
    WayWorth,
    Worth,
    cost_of,
)
from overture.evaluate.intervals import across_seeds
from overture.evaluate.metrics import metric_named
from overture.evaluate.worth import NOT_READ_OFF, worth
from overture.jobs.verdict.advice import advice_on
from overture.jobs.verdict.mistakes import curves_of, disagreement_of, mistakes_of
from overture.jobs.verdict.scores import Scores, pair_of, pairs_at

_FAVOURITES = ("lora", "full", NO_PROMPT)
_LONG_SECONDS, _BUSY = 5.0, 2 / 3


def summary(
    request: Request,
    plan: Plan,
    cells: Sequence[Cell],
    answers: RightAnswers,
    rates: Mapping[str, RateChoice],
    facts: Facts,
    failures: Sequence[FailedCell] = (),
    command: str = "",
) -> Summary:
    """Everything that the report shows; made from the cells alone, so that it is the same whenever it is made.

    Args:
        request: the comparison's request.
        plan: sizes and seeds that were run.
        cells: those that are there.
        answers: the test rows and their right answers.
        rates: way -> how its learning rate was chosen.
        facts: model, machine and data.
        failures: cells that could not be run.
        command: the command that made it.

    Raises:
        StoreError: a cell was scored on other rows.
    """
    ways, task = request.ways, request.tune["task"]
    assert isinstance(task, dict)
    first_seed = request.tune["seed"]
    assert isinstance(first_seed, int)
    scores = Scores(ways, plan.sizes, cells, answers.gold, str(task["metric"]))
    # Ways that use no rows are the same at every size.
    sizes = plan.sizes if scores.largest else (0,)
    pairs = [pair for size in sizes for pair in pairs_at(scores, size, request.margin)]
    ledger = [_cost(scores, way, size, rates.get(way), request) for way, size in scores.places()]
    reference = _reference(request.reference, scores, ledger)
    against = [
        _against(pair, ledger)
        for way in ways
        if reference and way != reference and (pair := pair_of(pairs, way, reference, scores.largest))
    ]
    return Summary(
        **dict(facts),
        status="incomplete" if failures else "finished",
        command=command,
        task=str(task["name"]),
        metric=scores.metric,
        ways=ways,
        sizes=plan.sizes,
        seeds=tuple(range(first_seed, first_seed + plan.seeds)),
        largest=scores.largest,
        margin=request.margin,
        scores=tuple(scores.score(way, size) for way, size in scores.places()),
        metrics=tuple(_all_metrics(scores, way, size) for way, size in scores.places()),
        pairs=tuple(pairs),
        reference=reference,
        against=tuple(against),
        worth=tuple(_worths(scores, reference)),
        enough=tuple(_enough(scores, pairs)),
        ledger=tuple(ledger),
        curves=curves_of(scores),
        mistakes=mistakes_of(scores, tuple(labels) if isinstance(labels := task.get("labels"), dict) else ()),
        disagreement=disagreement_of(scores, answers.rows),
        rates=dict(rates),
        advice=advice_on(scores, pairs, ledger, request.margin),
        left_out=plan.left_out,
        failed=tuple(failures),
        notices=(
            *scores.notices,
            *_row_notices(scores),
            *_rates_by_chance(rates, ledger, scores.metric),
            *_waiting(cells, facts.device),
        ),
        threads=tuple(sorted({cell.threads for cell in cells if cell.threads is not None})),
        price=request.price,
        watts=request.watts,
        request=request,
    )


# -- costs


def _cost(scores: Scores, way: str, size: int, choice: RateChoice | None, request: Request) -> Cost:
    """A way's costs at a size: means over the seeds."""
    cells = list(scores.cells(way, size).values())
    # A meter that some of the cells lacked has measured only a part.
    meters = {cell.ledger.energy_meter for cell in cells}
    meter = meters.pop() if len(meters) == 1 else ""

    def mean(account: Accounts, field: str) -> float:
        return fmean(getattr(cell.ledger.account(account), field) for cell in cells)

    def total(field: str) -> float:
        return sum(mean(account, field) for account in WORK)

    def money(seconds: float) -> float | None:
        return None if request.price is None else seconds / 3600 * request.price

    seconds = total("seconds")
    num_test = cells[0].rows.test
    serving = {field: mean("serving", field) / num_test for field in ("seconds", "cpu_seconds", "joules")}
    serving_seconds = serving["seconds"] * 1000
    befores = [cell.base.perplexity_before for cell in cells if cell.base.perplexity_before is not None]
    afters = [cell.base.perplexity_after for cell in cells if cell.base.perplexity_after is not None]
    trials = choice.tried if choice else ()
    return Cost(
        way=way,
        size=size,
        trainable=cells[0].trainable,
        validation_rows=cells[0].rows.validation if size else 0,
        stored_bytes=round(fmean(cell.stored_bytes for cell in cells)),
        seconds=seconds,
        building_seconds=mean("building", "seconds"),
        reading_seconds=mean("reading", "seconds"),
        training_seconds=mean("training", "seconds"),
        validation_seconds=mean("validation", "seconds"),
        cpu_seconds=total("cpu_seconds"),
        steps=fmean(cell.steps if isinstance(cell, TrainedCell) else 0 for cell in cells),
        best_steps=fmean(cell.best_steps if isinstance(cell, TrainedCell) else 0.0 for cell in cells),
        positions=total("positions"),
        training_positions=mean("training", "positions"),
        flops=total("flops"),
        peak_bytes=max(cell.ledger.peak_bytes for cell in cells),
        grown_bytes=max(cell.ledger.grown_bytes for cell in cells),
        kwh=(total("joules") if meter else seconds * request.watts) / JOULES_PER_KWH,
        energy=f"measured: {meter}" if meter else f"estimate: {request.watts:g} W",
        money=money(seconds),
        choosing_seconds=sum(trial.ledger.account(account).seconds for trial in trials for account in WORK),
        serving_seconds_per_1000=serving_seconds,
        serving_cpu_seconds_per_1000=serving["cpu_seconds"] * 1000,
        serving_kwh_per_1000=(serving["joules"] * 1000 if meter else serving_seconds * request.watts) / JOULES_PER_KWH,
        serving_money_per_1000=money(serving_seconds),
        serving_positions_per_row=mean("serving", "positions") / num_test,
        serving_flops_per_row=mean("serving", "flops") / num_test,
        is_intact=all(cell.base.is_intact for cell in cells),
        is_shared=all(cell.base.is_shared for cell in cells),
        own_bytes=max(cell.base.own_bytes for cell in cells),
        perplexity_before=fmean(befores) if len(befores) == len(cells) else None,
        perplexity_after=fmean(afters) if len(afters) == len(cells) else None,
    )


def _row_notices(scores: Scores) -> list[str]:
    """Sentences about odd rows with the ways they hold for; from the largest size's first seed, since all are alike."""
    ways: dict[str, list[str]] = {}
    for way in scores.ways:
        cells = scores.cells(way, scores.largest)
        for text in cells[min(cells)].notices if cells else ():
            ways.setdefault(text, []).append(way)
    return [f"{text} ({', '.join(names)})" for text, names in ways.items()]


def _rates_by_chance(rates: Mapping[str, RateChoice], ledger: Sequence[Cost], metric: str) -> list[str]:
    """A sentence about ways whose rates scored so alike that chance may have chosen among them.

    Only for scores from 0 to 1. The standard error of their mean over n rows is at most that of a share; two rows more
    on either side keep it from being nothing at 0 and 1 (Agresti and Coull 1998).
    """
    if metric_named(metric).bounds != (0.0, 1.0):
        return []
    parts = []
    for way, choice in rates.items():
        scores = [trial.score for trial in choice.tried if trial.score is not None]
        num_rows = next((cost.validation_rows for cost in ledger if (cost.way, cost.size) == (way, choice.size)), 0)
        if len(scores) < 2 or not num_rows:
            continue
        worst, best = min(scores), max(scores)
        share = (num_rows * best + 2) / (num_rows + 4)
        if best - worst < 2 * sqrt(share * (1 - share) / (num_rows + 4)):
            parts.append(f"{way}: {worst:.3f} to {best:.3f} on {num_rows} rows")
    if not parts:
        return []
    return [
        f"the learning rates that were tried scored too much alike to be told apart ({'; '.join(parts)}): chance may "
        "have chosen; more validation rows choose better"
    ]


def _waiting(cells: Sequence[Cell], device: str) -> list[str]:
    """A sentence where wall times are those of a machine that had other work."""
    if device != "cpu":
        return []
    num_waiting = 0
    for cell in cells:
        seconds = sum(account.seconds for account in cell.ledger.accounts)
        cpu_seconds = sum(account.cpu_seconds for account in cell.ledger.accounts)
        num_waiting += seconds > _LONG_SECONDS and cpu_seconds < _BUSY * seconds
    if not num_waiting:
        return []
    return [
        f"{num_waiting} of {len(cells)} cells waited for other work of the machine, or its disk, for more than a third "
        "of their time: compare CPU seconds, not seconds"
    ]


def _reference(option: str, scores: Scores, ledger: Sequence[Cost]) -> str:
    """The way that others are compared with: as requested, LoRA, full fine-tuning, no prompt, or the costliest one."""
    if option:
        return option
    for name in _FAVOURITES:
        if name in scores.ways and scores.cells(name, scores.largest):
            return name
    trained_costs = [cost for cost in ledger if cost.trainable and cost.size == scores.largest]
    return max(trained_costs, key=lambda cost: cost.cpu_seconds).way if trained_costs else ""


def _against(pair: Pair, ledger: Sequence[Cost]) -> Against:
    """A way beside the reference: the difference, and its share of the reference's costs."""
    cost, reference_cost = [cost_of(ledger, way, pair.size) for way in (pair.a, pair.b)]

    def share(field: str) -> float | None:
        whole = getattr(reference_cost, field)
        return getattr(cost, field) / whole if whole else None

    shares = Shares(**{name: share(name) for name in Shares.model_fields})
    return Against(**dict(pair), way=pair.a, reference=pair.b, shares=shares)


# -- worth in rows


def _worths(scores: Scores, reference: str) -> list[WayWorth]:
    """Worth of every way that depends on rows, against the reference."""
    places = scores.places()
    sizes = {way: [size for size in scores.sizes if (way, size) in places] for way in scores.ways}
    if not reference or len(sizes[reference]) < 2:
        return []
    return [
        WayWorth(**dict(_worth(scores, way, reference, sizes)), way=way, reference=reference)
        for way in scores.ways
        if way != reference and len(sizes[way]) > 1
    ]


def _worth(scores: Scores, way: str, reference: str, sizes: Mapping[str, Sequence[int]]) -> Worth:
    """Worth of a way over the seeds that both ways have at all their sizes: a seed draws the same rows for both."""
    seeds = set.intersection(*(set(scores.cells(name, size)) for name in (way, reference) for size in sizes[name]))
    if not seeds:
        return NOT_READ_OFF
    curve, reference_curve = (
        {size: scores.resampled(name, size, sorted(seeds)) for size in sizes[name]} for name in (way, reference)
    )
    return worth(curve, reference_curve)


def _enough(scores: Scores, pairs: Sequence[Pair]) -> list[Enough]:
    """From how many training rows on a way surely beats one that uses none; no size where it never does."""
    free = [way for way in scores.ways if scores.cells(way, 0)]
    results = []
    for way, other in itertools.product([way for way in scores.ways if way not in free], free):
        verdicts = {size: pair.verdict for size in scores.sizes if (pair := pair_of(pairs, way, other, size))}
        if not verdicts:
            continue
        sure = [size for size in verdicts if all(verdicts[more] == "better" for more in verdicts if more >= size)]
        results.append(Enough(way=way, than=other, size=min(sure, default=None)))
    return results


def _all_metrics(scores: Scores, way: str, size: int) -> WayMetrics:
    """Every metric of the task's kind.

    Cells keep no confidences, so a metric of confidences has an interval over the seeds alone.
    """
    cells: Sequence[ScoredCell] = list(scores.cells(way, size).values())
    intervals = [cell.metrics["test"] for cell in cells]
    values = {}
    for name in intervals[0]:
        metric = metric_named(name)
        if metric.of != "confidences":
            values[name] = MetricMean(**dict(scores.interval(way, size, name)), n_seeds=len(cells))
        elif len(cells) == 1:
            values[name] = MetricMean(**dict(intervals[0][name]), n_seeds=1)
        else:
            spread = across_seeds([cell[name].value for cell in intervals], bounds=metric.bounds)
            assert spread.low is not None
            assert spread.high is not None
            values[name] = MetricMean(
                value=spread.mean, low=spread.low, high=spread.high, method=OVER_SEEDS, n_seeds=len(cells)
            )
    return WayMetrics(way=way, size=size, values=values)
