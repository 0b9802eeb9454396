"""What the cells of a comparison say: scores, paired tests, worth in rows, costs, and advice, or why there is none."""

import itertools
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from overture.core.errors import StoreError
from overture.evaluate.metrics import as_answers
from overture.evaluate.over_seeds import Resampled, differences_over_seeds, holm, interval_over_seeds, resampled
from overture.evaluate.worth import worth
from overture.study.budget import Plan
from overture.study.energy import JOULES_PER_KWH
from overture.study.result import portable

SURE = 0.05
_FAVOURITES = ("lora", "full")
Cell = dict[str, Any]


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
    pairs = [pair for size in sizes for pair in _pairs(found, size, config.margin)]
    ledger = [_costs(found, way, size, rates, config) for way, size in found.each()]
    reference = _reference(config.reference, found, ledger)
    against = [
        _against(pair, ledger)
        for way in ways
        if reference and way != reference and (pair := _pair_of(pairs, way, reference, found.largest))
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
        "pairs": pairs,
        "reference": reference,
        "against": against,
        "worth": _worths(found, reference),
        "ledger": ledger,
        "rates": dict(rates),
        "advice": _advice(found, pairs, ledger),
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


class Scores:
    """Cells by way and size, their scores resampled on the same test rows.

    Args:
        ways: in order.
        sizes: training rows.
        cells: of one task.
        metric: what is compared.
    """

    def __init__(self, ways: Sequence[str], sizes: Sequence[int], cells: Sequence[Cell], metric: str) -> None:
        self.ways, self.sizes, self.metric = ways, sizes, metric
        self.notices: list[str] = []
        self.num_diverged: dict[tuple[str, int], int] = {}
        """Seeds whose training diverged, by way and size."""
        self._cells: dict[tuple[str, int], dict[int, Cell]] = {}
        for cell in cells:
            if not cell["metrics"]:
                self.notices.append(f"{cell['way']}, {cell['size']} rows, seed {cell['seed']}: training diverged")
                place = (cell["way"], cell["size"])
                self.num_diverged[place] = self.num_diverged.get(place, 0) + 1
                continue
            if len(cell["predicted"]) != len(cell["gold"]):
                raise StoreError("a cell was scored on other rows", got=f"{cell['way']}:{cell['size']}:{cell['seed']}")
            self._cells.setdefault((cell["way"], cell["size"]), {})[cell["seed"]] = cell
        self._resampled: dict[tuple[str, int], Resampled] = {}

    @property
    def largest(self) -> int:
        """The largest size that has cells."""
        return max((size for _, size in self._cells), default=0)

    def each(self) -> list[tuple[str, int]]:
        """(way, size) of all cells, in order; a way without training rows has size 0."""
        return [(way, size) for way in self.ways for size in (0, *self.sizes) if (way, size) in self._cells]

    def cells(self, way: str, size: int) -> dict[int, Cell]:
        """Cells by seed; those of size 0 where a way does not depend on rows."""
        return self._cells.get((way, size)) or self._cells.get((way, 0), {})

    def resampled(self, way: str, size: int, seeds: Sequence[int] | None = None) -> Resampled:
        """Scores of the seeds, or of some of them."""
        cells = self.cells(way, size)
        chosen = sorted(cells) if seeds is None or len(cells) == 1 else list(seeds)
        if chosen != sorted(cells):
            return self._drawn([cells[seed] for seed in chosen])
        key = (way, size if (way, size) in self._cells else 0)
        if key not in self._resampled:
            self._resampled[key] = self._drawn([cells[seed] for seed in chosen])
        return self._resampled[key]

    def _drawn(self, cells: Sequence[Cell]) -> Resampled:
        gold = as_answers(cells[0]["gold"])
        return resampled(self.metric, gold, [as_answers(cell["predicted"]) for cell in cells])

    def common(self, a: str, b: str, size: int) -> list[int] | None:
        """Seeds that both ways have; None where they have none in common."""
        ours, theirs = self.cells(a, size), self.cells(b, size)
        if not ours or not theirs:
            return None
        is_constant = [set(cells) == {0} and all(cell["size"] == 0 for cell in cells.values())
                       for cells in (ours, theirs)]  # fmt: skip
        if all(is_constant):
            return [0]
        if any(is_constant):
            return sorted(theirs if is_constant[0] else ours)
        return sorted(set(ours) & set(theirs)) or None

    def score(self, way: str, size: int) -> dict[str, Any]:
        """Mean over seeds, its interval, and each seed."""
        found = self.resampled(way, size)
        interval = interval_over_seeds(found).model_dump()
        return {"way": way, "size": size, **interval, "n_seeds": len(found.values), "each": list(found.values)}


def _pairs(found: Scores, size: int, margin: float) -> list[dict[str, Any]]:
    """Every two ways at a size, with p-values corrected for how many pairs there are."""
    drawn = {
        (a, b): (found.resampled(a, size, seeds), found.resampled(b, size, seeds))
        for a, b in itertools.combinations(found.ways, 2)
        if (seeds := found.common(a, b, size)) is not None
    }
    compared = differences_over_seeds(drawn)
    pairs = [{"size": size, "a": a, "b": b, **one.model_dump()} for (a, b), one in compared.items()]
    for pair, corrected in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
        pair |= {"p_corrected": corrected, "verdict": _verdict(pair["difference"], corrected, margin)}
    return pairs


def _verdict(difference: Mapping[str, Any], p_corrected: float, margin: float) -> str:
    """``better`` or ``worse`` where the test is sure, ``level`` where the interval lies within the margin."""
    if p_corrected < SURE and not difference["low"] <= 0 <= difference["high"]:
        return "better" if difference["value"] > 0 else "worse"
    if -margin <= difference["low"] and difference["high"] <= margin:
        return "level"
    return "undecided"


def _pair_of(pairs: Sequence[dict[str, Any]], a: str, b: str, size: int) -> dict[str, Any] | None:
    """The pair seen from the first way."""
    for pair in pairs:
        if pair["size"] == size and {pair["a"], pair["b"]} == {a, b}:
            return pair if pair["a"] == a else _turned(pair)
    return None


def _turned(pair: Mapping[str, Any]) -> dict[str, Any]:
    difference = pair["difference"]
    turned = {**difference, "value": -difference["value"], "low": -difference["high"], "high": -difference["low"]}
    verdict = {"better": "worse", "worse": "better"}.get(pair["verdict"], pair["verdict"])
    return {**pair, "a": pair["b"], "b": pair["a"], "difference": turned, "verdict": verdict}


# -- costs


def _costs(found: Scores, way: str, size: int, rates: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """A way's ledger at a size: means over the seeds."""
    cells = list(found.cells(way, size).values())

    def mean(account: str, field: str) -> float:
        return fmean(cell["ledger"].get(account, {}).get(field, 0.0) for cell in cells)

    work = ("building", "reading", "training", "validation")
    seconds = sum(mean(account, "seconds") for account in work)
    served = cells[0]["rows"]["test"]
    serving = mean("serving", "seconds") / served * 1000
    trials = rates.get(way, {}).get("tried", ())
    # A meter that some of the cells lacked has measured only a part.
    meters = {cell["ledger"]["energy_meter"] for cell in cells}
    meter = meters.pop() if len(meters) == 1 else ""
    joules = sum(mean(account, "joules") for account in work) if meter else seconds * config.watts
    befores = [cell["base"]["perplexity_before"] for cell in cells]
    afters = [cell["base"]["perplexity_after"] for cell in cells]
    price = config.price
    return {
        "way": way,
        "size": size,
        "trainable": cells[0]["trainable"],
        "validation_rows": cells[0]["rows"]["validation"] if size else 0,
        "stored_bytes": round(fmean(cell["stored_bytes"] for cell in cells)),
        "seconds": seconds,
        **{f"{account}_seconds": mean(account, "seconds") for account in work},
        "cpu_seconds": sum(mean(account, "cpu_seconds") for account in work),
        "steps": fmean(cell.get("steps", 0) for cell in cells),
        "positions": sum(mean(account, "positions") for account in work),
        "training_positions": mean("training", "positions"),
        "flops": sum(mean(account, "flops") for account in work),
        "peak_bytes": max(cell["ledger"]["peak_bytes"] for cell in cells),
        "grown_bytes": max(cell["ledger"]["grown_bytes"] for cell in cells),
        "kwh": joules / JOULES_PER_KWH,
        "energy": f"measured: {meter}" if meter else f"estimate: {config.watts:g} W",
        "money": None if price is None else seconds / 3600 * price,
        "choosing_seconds": sum(one["ledger"].get(name, {}).get("seconds", 0.0) for one in trials for name in work),
        "serving_seconds": serving,
        "serving_cpu_seconds": mean("serving", "cpu_seconds") / served * 1000,
        "serving_positions": mean("serving", "positions") / served,
        "serving_flops": mean("serving", "flops") / served,
        "serving_money": None if price is None else serving / 3600 * price,
        "serving_kwh": (mean("serving", "joules") / served * 1000 if meter else serving * config.watts)
        / JOULES_PER_KWH,
        "is_intact": all(cell["base"]["is_intact"] for cell in cells),
        "is_shared": all(cell["base"]["is_shared"] for cell in cells),
        "own_bytes": max(cell["base"]["own_bytes"] for cell in cells),
        "perplexity_before": None if None in befores else fmean(befores),
        "perplexity_after": None if None in afters else fmean(afters),
    }


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
    names = ("seconds", "cpu_seconds", "flops", "trainable", "stored_bytes", "serving_seconds")
    shares = {name: ours[name] / theirs[name] if theirs[name] else None for name in names}
    return {"way": pair["a"], "reference": pair["b"], **pair, "shares": shares}


def cost_of(ledger: Sequence[Mapping[str, Any]], way: str, size: int) -> Mapping[str, Any]:
    """A way's costs at a size, or at none where it does not depend on rows."""
    return next(one for one in ledger if one["way"] == way and one["size"] in (size, 0))


# -- worth in rows


def _worths(found: Scores, reference: str) -> list[dict[str, Any]]:
    """What every way that depends on rows is worth against the reference."""
    curves = {
        way: {size: found.resampled(way, size) for size in found.sizes if (way, size) in found.each()}
        for way in found.ways
    }
    if not reference or len(curves[reference]) < 2:
        return []
    return [
        {"way": way, "reference": reference, **worth(curve, curves[reference]).model_dump()}
        for way, curve in curves.items()
        if way != reference and len(curve) > 1
    ]


# -- advice


def _advice(found: Scores, pairs: Sequence[dict[str, Any]], ledger: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One sentence: the best way where it is surely the best, else why there is no advice; and whose training diverged.

    A way that diverged with some seed is never advised.
    """
    advice = _judged(found, pairs, ledger)
    told = [
        f"{way} diverged with {lost} of {lost + len(found.cells(way, size))} seeds"
        for (way, size), lost in found.num_diverged.items()
        if size == found.largest
    ]
    return {**advice, "text": "; ".join([advice["text"], *told]) + "."}


def _judged(found: Scores, pairs: Sequence[dict[str, Any]], ledger: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    size = found.largest
    scores = [found.score(way, size if (way, size) in found.each() else 0) for way in found.ways
              if found.cells(way, size)]  # fmt: skip
    if len(scores) < 2:
        return {"way": None, "rivals": [], "text": "No advice: there is only one way to look at"}
    scores.sort(key=lambda score: -score["value"])
    best = scores[0]
    against = {score["way"]: _pair_of(pairs, best["way"], score["way"], size) for score in scores[1:]}
    rivals = [score for score in scores[1:] if not _is_beaten(best, score, against[score["way"]])]
    steady = [score for score in scores if (score["way"], size) not in found.num_diverged]
    # Of ways that are trained: the others are the same with every seed.
    seeds = [score["n_seeds"] for score in (best, *(rivals or steady)) if score["size"]]
    where = _where(size, best["n"], seeds)
    if best not in steady:
        return {
            "way": None,
            "rivals": [score["way"] for score in rivals],
            "text": f"No advice: {_said(best)} scored highest {where}, but only where its training did not diverge",
        }
    if min(seeds, default=2) < 2:
        return {
            "way": None,
            "rivals": [score["way"] for score in scores[1:]],
            "text": f"No advice from one seed: {_said(best)} scored highest {where}, "
            "but another seed draws other rows and may turn the order",
        }
    if rivals:
        near = rivals[0]
        pair = against[near["way"]]
        is_parted = bool(pair and pair["verdict"] == "better")
        said = (
            "have intervals that overlap, though the paired test parts them," if is_parted else "cannot be told apart"
        )
        told = f", corrected p = {pair['p_corrected']:.2g}{_shared(best, near, pair)}" if pair else ""
        cheap = min(
            (score for score in (best, *rivals) if score in steady),
            key=lambda score: _training_seconds(cost_of(ledger, score["way"], size)),
        )
        return {
            "way": None,
            "rivals": [score["way"] for score in rivals],
            "text": f"No advice on quality: {_said(best)} and {_said(near)} {said} {where}{told}"
            f"{_others(rivals[1:])}; {_cheapest(cheap, best, ledger, size)}",
        }
    pair = against[scores[1]["way"]]
    assert pair is not None
    gap = pair["difference"]
    cost = cost_of(ledger, best["way"], size)
    training = f"{cost['seconds']:.0f} s of training" if cost["size"] else "no training"
    return {
        "way": best["way"],
        "rivals": [],
        "text": f"Take {_said(best)}: {where} it beats the next best, {_said(scores[1])}, by "
        f"{100 * gap['value']:.1f} points ({100 * gap['low']:.1f} to {100 * gap['high']:.1f}, corrected p = "
        f"{pair['p_corrected']:.2g}{_shared(best, scores[1], pair)}), for {training} and "
        f"{cost['stored_bytes']:,} bytes kept",
    }


def _where(size: int, num_rows: int, seeds: Sequence[int]) -> str:
    if not size:
        return f"on {num_rows} test rows"
    if not seeds:
        return f"at {size} training rows, {num_rows} test rows"
    least, most = min(seeds), max(seeds)
    counted = f"{least} to {most}" if least < most else str(most)
    return f"at {size} training rows, {num_rows} test rows and {counted} {'seed' if most == 1 else 'seeds'}"


def _shared(best: Mapping[str, Any], other: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """The seeds that a pair was tested with, where the scores are means over more."""
    if all(score["n_seeds"] <= pair["n_seeds"] for score in (best, other)):
        return ""
    return f", over the {pair['n_seeds']} {'seed' if pair['n_seeds'] == 1 else 'seeds'} that both have"


def _is_beaten(best: Mapping[str, Any], other: Mapping[str, Any], pair: Mapping[str, Any] | None) -> bool:
    """Surely worse than the best: by the paired test, corrected, and by intervals that do not overlap.

    Paired tests may be sure where intervals of the single scores overlap; advice asks for both.
    """
    return bool(pair and pair["verdict"] == "better") and other["high"] < best["low"]


def _said(score: Mapping[str, Any]) -> str:
    return f"{score['way']} ({score['value']:.3f}, {score['low']:.3f} to {score['high']:.3f})"


def _others(rivals: Sequence[Mapping[str, Any]]) -> str:
    names = [score["way"] for score in rivals]
    if not names:
        return ""
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"; nor {'is' if len(names) == 1 else 'are'} {listed} surely behind"


def _training_seconds(cost: Mapping[str, Any]) -> float:
    return float(cost["seconds"]) if cost["size"] else 0.0


def _cheapest(cheap: Mapping[str, Any], best: Mapping[str, Any], ledger: Sequence[Mapping[str, Any]], size: int) -> str:
    ours, theirs = [cost_of(ledger, score["way"], size) for score in (cheap, best)]
    if not ours["size"]:
        return f"{cheap['way']} needs no training at all"
    if cheap["way"] == best["way"]:
        return f"{best['way']} is also the cheapest of them to train ({ours['seconds']:.1f} s)"
    share = ours["seconds"] / theirs["seconds"] if theirs["seconds"] else 1.0
    return (
        f"the cheapest of them to train is {cheap['way']}, with {share:.0%} of the time of {best['way']} "
        f"and {ours['stored_bytes']:,} against {theirs['stored_bytes']:,} bytes kept"
    )
