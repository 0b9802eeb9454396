"""What the cells of a comparison say: scores, paired tests, worth in rows, costs, and advice, or why there is none."""

import itertools
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from overture.core.records.compare import JOULES_PER_KWH, OF_SEEDS, Plan, cost_of
from overture.data.task import portable
from overture.evaluate.intervals import across_seeds
from overture.evaluate.metrics import metric_named
from overture.evaluate.worth import NOT_READ_OFF, Worth, worth
from overture.jobs.verdict.advice import advice_on
from overture.jobs.verdict.scores import Cell, Scores, pair_of, pairs_at

_FAVOURITES = ("lora", "full")


def summary(
    config: Any,
    plan: Plan,
    ways: Sequence[str],
    cells: Sequence[Cell],
    rates: Mapping[str, Any],
    facts: Mapping[str, Any],
    failed: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """All that the report shows; made from the cells alone, so it is the same whenever it is made.

    Args:
        config: the request, a `study.compare.CompareConfig`.
        plan: sizes and seeds.
        ways: in the request's order.
        cells: with their gold answers.
        rates: how each learning rate was chosen.
        facts: of model, data, versions.
        failed: cells that could not be run: way, size, seed, and what was wrong.
    """
    task = config.tune.task
    found = Scores(ways, plan.sizes, cells, task.metric)
    # Ways that use no rows are the same at every size.
    sizes = plan.sizes if found.largest else (0,)
    pairs = [pair for size in sizes for pair in pairs_at(found, size, config.margin)]
    ledger = [_costs(found, way, size, rates, config) for way, size in found.each()]
    reference = _reference(config.reference, found, ledger)
    against = [
        _against(pair, ledger)
        for way in ways
        if reference and way != reference and (pair := pair_of(pairs, way, reference, found.largest))
    ]
    return {
        "status": "incomplete" if failed else "finished",
        "task": task.name,
        "metric": task.metric,
        "ways": list(ways),
        "sizes": list(plan.sizes),
        "seeds": list(range(config.tune.seed, config.tune.seed + plan.seeds)),
        "largest": found.largest,
        "margin": config.margin,
        "scores": [found.score(way, size) for way, size in found.each()],
        "metrics": [_all_metrics(found, way, size) for way, size in found.each()],
        "pairs": pairs,
        "reference": reference,
        "against": against,
        "worth": _worths(found, reference),
        "enough": _enough(found, pairs),
        "ledger": ledger,
        "rates": dict(rates),
        "advice": advice_on(found, pairs, ledger),
        "left_out": list(plan.left_out),
        "failed": [dict(one) for one in failed],
        "notices": [*found.notices, *_told(found), *_waiting(cells, facts["device"])],
        "threads": sorted({cell["threads"] for cell in cells if "threads" in cell}),
        "price": config.price,
        "watts": config.watts,
        "request": {
            **config.model_dump(mode="json", exclude={"tune", "unrelated"}),
            "tune": {
                **config.tune.model_dump(mode="json", exclude={"task"}),
                "task": {**portable(task), "backbone": facts["backbone"]["id"]},
            },
        },
        **facts,
    }


# -- costs


def _costs(found: Scores, way: str, size: int, rates: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """A way's ledger at a size: means over the seeds."""
    cells = list(found.cells(way, size).values())
    meter = _meter(cells)
    seconds = sum(_mean(cells, account, "seconds") for account in _WORK)
    joules = sum(_mean(cells, account, "joules") for account in _WORK) if meter else seconds * config.watts
    trials = rates.get(way, {}).get("tried", ())
    befores = [cell["base"]["perplexity_before"] for cell in cells]
    afters = [cell["base"]["perplexity_after"] for cell in cells]
    return {
        "way": way,
        "size": size,
        "trainable": cells[0]["trainable"],
        "validation_rows": cells[0]["rows"]["validation"] if size else 0,
        "stored_bytes": round(fmean(cell["stored_bytes"] for cell in cells)),
        "seconds": seconds,
        **{f"{account}_seconds": _mean(cells, account, "seconds") for account in _WORK},
        "cpu_seconds": sum(_mean(cells, account, "cpu_seconds") for account in _WORK),
        "steps": fmean(cell.get("steps", 0) for cell in cells),
        "best_steps": fmean(map(_best_steps, cells)),
        "positions": sum(_mean(cells, account, "positions") for account in _WORK),
        "training_positions": _mean(cells, "training", "positions"),
        "flops": sum(_mean(cells, account, "flops") for account in _WORK),
        "peak_bytes": max(cell["ledger"]["peak_bytes"] for cell in cells),
        "grown_bytes": max(cell["ledger"]["grown_bytes"] for cell in cells),
        "kwh": joules / JOULES_PER_KWH,
        "energy": f"measured: {meter}" if meter else f"estimate: {config.watts:g} W",
        "money": _money(seconds, config.price),
        "choosing_seconds": sum(one["ledger"].get(name, {}).get("seconds", 0.0) for one in trials for name in _WORK),
        **_serving(cells, meter, config),
        "is_intact": all(cell["base"]["is_intact"] for cell in cells),
        "is_shared": all(cell["base"]["is_shared"] for cell in cells),
        "own_bytes": max(cell["base"]["own_bytes"] for cell in cells),
        "perplexity_before": None if None in befores else fmean(befores),
        "perplexity_after": None if None in afters else fmean(afters),
    }


_WORK = ("building", "reading", "training", "validation")


def _best_steps(cell: Cell) -> float:
    """Optimiser steps up to the epoch whose values were kept; 0 where none were taken."""
    history = cell.get("history")
    return cell["steps"] * (cell["best_epoch"] + 1) / len(history) if history else 0.0


def _serving(cells: Sequence[Cell], meter: str, config: Any) -> dict[str, Any]:
    """What answering costs: time, energy and money of 1,000 rows, work of one."""
    num_rows = cells[0]["rows"]["test"]
    seconds, cpu_seconds, joules = (
        _mean(cells, "serving", field) / num_rows * 1000 for field in ("seconds", "cpu_seconds", "joules")
    )
    return {
        "serving_seconds_per_1000": seconds,
        "serving_cpu_seconds_per_1000": cpu_seconds,
        "serving_kwh_per_1000": (joules if meter else seconds * config.watts) / JOULES_PER_KWH,
        "serving_money_per_1000": _money(seconds, config.price),
        "serving_positions_per_row": _mean(cells, "serving", "positions") / num_rows,
        "serving_flops_per_row": _mean(cells, "serving", "flops") / num_rows,
    }


def _mean(cells: Sequence[Cell], account: str, field: str) -> float:
    return fmean(cell["ledger"].get(account, {}).get(field, 0.0) for cell in cells)


def _meter(cells: Sequence[Cell]) -> str:
    """The meter that measured all of the cells; a meter that some of them lacked has measured only a part."""
    meters = {cell["ledger"]["energy_meter"] for cell in cells}
    return meters.pop() if len(meters) == 1 else ""


def _money(seconds: float, price: float | None) -> float | None:
    return None if price is None else seconds / 3600 * price


def _told(found: Scores) -> list[str]:
    """What was odd about the rows, with its ways; of the largest size's first seed, since all are alike."""
    ways: dict[str, list[str]] = {}
    for way in found.ways:
        cells = found.cells(way, found.largest)
        for text in cells[min(cells)].get("notices", ()) if cells else ():
            ways.setdefault(text, []).append(way)
    return [f"{text} ({', '.join(names)})" for text, names in ways.items()]


def _waiting(cells: Sequence[Cell], device: str) -> list[str]:
    """Whether wall times are those of a machine that had other work."""
    if device != "cpu":
        return []
    waited = 0
    for cell in cells:
        accounts = [account for account in cell["ledger"].values() if isinstance(account, dict)]
        seconds, worked = (sum(account[name] for account in accounts) for name in ("seconds", "cpu_seconds"))
        waited += seconds > _LONG_SECONDS and worked < _BUSY * seconds
    if not waited:
        return []
    return [
        f"{waited} of {len(cells)} cells waited for other work of the machine, or its disk, for more than a third of "
        "their time: compare CPU seconds, not seconds"
    ]


_LONG_SECONDS, _BUSY = 5.0, 2 / 3


def _reference(asked: str, found: Scores, ledger: Sequence[Mapping[str, Any]]) -> str:
    """What prompts are set against: as asked, LoRA, full fine-tuning, or the costliest way that trains."""
    if asked:
        return asked
    for name in _FAVOURITES:
        if name in found.ways and found.cells(name, found.largest):
            return name
    trained = [one for one in ledger if one["trainable"] and one["size"] == found.largest]
    return str(max(trained, key=lambda one: one["cpu_seconds"])["way"]) if trained else ""


def _against(pair: dict[str, Any], ledger: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A way beside the reference: the difference, and its share of the reference's costs."""
    ours, theirs = [cost_of(ledger, way, pair["size"]) for way in (pair["a"], pair["b"])]
    names = ("seconds", "cpu_seconds", "flops", "trainable", "stored_bytes", "serving_seconds_per_1000")
    shares = {name: ours[name] / theirs[name] if theirs[name] else None for name in names}
    return {"way": pair["a"], "reference": pair["b"], **pair, "shares": shares}


# -- worth in rows


def _worths(found: Scores, reference: str) -> list[dict[str, Any]]:
    """What every way that depends on rows is worth against the reference."""
    each = found.each()
    sizes = {way: [size for size in found.sizes if (way, size) in each] for way in found.ways}
    if not reference or len(sizes[reference]) < 2:
        return []
    return [
        {"way": way, "reference": reference, **_worth(found, way, reference, sizes).model_dump()}
        for way in found.ways
        if way != reference and len(sizes[way]) > 1
    ]


def _worth(found: Scores, way: str, reference: str, sizes: Mapping[str, Sequence[int]]) -> Worth:
    """Over the seeds that both have at all their sizes: a seed draws the same rows for both."""
    seeds = set.intersection(*(set(found.cells(one, size)) for one in (way, reference) for size in sizes[one]))
    if not seeds:
        return NOT_READ_OFF
    ours, theirs = (
        {size: found.resampled(one, size, sorted(seeds)) for size in sizes[one]} for one in (way, reference)
    )
    return worth(ours, theirs)


def _enough(found: Scores, pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """From how many training rows on a way surely beats one that uses none; no size where it never does."""
    free = [way for way in found.ways if found.cells(way, 0)]
    told = []
    for way, other in itertools.product([way for way in found.ways if way not in free], free):
        verdicts = {size: pair["verdict"] for size in found.sizes if (pair := pair_of(pairs, way, other, size))}
        if not verdicts:
            continue
        sure = [size for size in verdicts if all(verdicts[more] == "better" for more in verdicts if more >= size)]
        told.append({"way": way, "than": other, "size": min(sure, default=None)})
    return told


def _all_metrics(found: Scores, way: str, size: int) -> dict[str, Any]:
    """Every metric of the task's kind; cells keep no confidences, so a metric of these varies with the seeds alone."""
    cells = [cell["metrics"]["test"] for cell in found.cells(way, size).values()]
    values = {}
    for name in cells[0]:
        metric = metric_named(name)
        if metric.of != "confidences":
            values[name] = found.interval(way, size, name).model_dump()
        elif len(cells) == 1:
            values[name] = dict(cells[0][name])
        else:
            spread = across_seeds([cell[name]["value"] for cell in cells], bounds=metric.bounds)
            values[name] = {"value": spread.mean, "low": spread.low, "high": spread.high, "method": OF_SEEDS}
        values[name] |= {"n_seeds": len(cells)}
    return {"way": way, "size": size, "values": values}
