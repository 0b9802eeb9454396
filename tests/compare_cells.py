"""Cells of a comparison made by hand, for tests of what is made of them."""

from typing import Any

from overture.core.records.cells import CELLS, Plan, Request, RightAnswers, RowText, Trial
from overture.core.records.compare import Facts, ModelFacts, Summary
from overture.data.task import Task
from overture.jobs.compare.options import CompareConfig
from overture.jobs.run.request import TuneConfig
from overture.jobs.verdict.summary import summary

TASK = Task(
    name="mood",
    data={"train": "rows.jsonl"},
    template="{text}\nMood:",
    labels={"good": " good", "bad": " bad", "odd": " odd"},
)


def cell(way: str, size: int, seed: int, right: list[bool], seconds: float = 10.0, **more: Any) -> dict[str, Any]:
    """A cell as JSON has it, with the answers it is scored by; tests change it before it becomes a record."""
    account = {"seconds": seconds, "cpu_seconds": seconds, "positions": 100.0, "flops": 1e9 * seconds, "joules": 0.0}
    ledger = dict.fromkeys(("building", "reading", "training", "validation", "scoring", "serving"), account)
    base = {"is_intact": True, "is_shared": True, "own_bytes": 0, "perplexity_before": 10.0, "perplexity_after": 12.0}
    return {
        "kind": "built",
        "way": way,
        "size": size,
        "seed": seed,
        "status": "finished",
        "lr": None,
        "metrics": {"test": {"accuracy": interval(sum(right) / len(right))}},
        "predicted": ["good" if hit else "bad" for hit in right],
        "trainable": 100 if size else 0,
        "stored_bytes": 400 if size else 0,
        "threads": 1,
        "rows": {"train": size, "validation": min(size, 32), "test": 100},
        "ledger": {**ledger, "peak_bytes": 10**9, "grown_bytes": 10**6, "energy_meter": ""},
        "base": base,
        **more,
    }


def interval(value: float, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 100}


def history(num_epochs: int) -> list[dict[str, Any]]:
    epoch = {"train_loss": 1.0, "validation_loss": 1.0, "validation_score": 0.5, "seconds": 1.0}
    return [{"epoch": number, **epoch} for number in range(num_epochs)]


def hits(share: float, seed: int, n: int = 400) -> list[bool]:
    import numpy as np

    return (np.random.default_rng(seed).random(n) < share).tolist()


def cells_of(shares: dict[str, float], seeds: int = 4, n: int = 400, size: int = 64) -> list[dict[str, Any]]:
    return [
        cell(way, size, seed, hits(share, 100 * number + seed, n), seconds=10.0 * (number + 1))
        for number, (way, share) in enumerate(shares.items())
        for seed in range(seeds)
    ]


def summed(
    cells: list[dict[str, Any]],
    ways: list[str],
    sizes: tuple[int, ...] = (64,),
    failed: Any = (),
    rates: Any = None,
    rows: tuple[RowText, ...] = (),
    **more: Any,
) -> Summary:
    config = CompareConfig(tune=TuneConfig(task=TASK), ways=ways, sizes=sizes, **more)
    request = Request(
        **config.model_dump(mode="json", exclude={"tune", "unrelated"}),
        tune={"seed": 0, "task": {"name": TASK.name, "metric": TASK.metric, "labels": TASK.model_dump()["labels"]}},
    )
    seeds = 1 + max(one["seed"] for one in cells)
    plan = Plan(sizes=sizes, seeds=seeds, is_tuned=False)
    facts = Facts(
        backbone=ModelFacts(id="tiny", parameters=10**6, dtype="float32"),
        device="cpu",
        versions={"overture": "0", "git": ""},
        data="0",
        passages=8,
    )
    gold = ("good",) * max(len(one.get("predicted", ())) for one in cells)
    answers = RightAnswers(data="0", gold=gold, rows=rows)
    return summary(request, plan, list(map(CELLS.validate_python, cells)), answers, rates or {}, facts, failed)


def diverged(cells: list[dict[str, Any]], way: str, *seeds: int) -> list[dict[str, Any]]:
    return [without_score(one) if one["way"] == way and one["seed"] in seeds else one for one in cells]


def without_score(cell: dict[str, Any]) -> dict[str, Any]:
    scored = ("metrics", "predicted", "stored_bytes", "base")
    rest = {name: value for name, value in cell.items() if name not in scored}
    return {**rest, "kind": "diverged", "status": "diverged", "steps": 3, "best_epoch": 0, "history": []}


def trial(lr: float, score: float | None, **accounts: Any) -> Trial:
    ledger = {"peak_bytes": 1, "grown_bytes": 0, "energy_meter": "", **accounts}
    loss = None if score is None else 1 - score
    return Trial.model_validate({"lr": lr, "score": score, "loss": loss, "status": "finished", "ledger": ledger})
