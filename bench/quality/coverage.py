"""Whether sets of labels and withheld answers keep their promise: 200 random splits of a stored prompt's test rows.

    python bench/quality/coverage.py --prompt movie --store STORE --rows DATA/movie/test.jsonl
    python bench/quality/coverage.py --task trec --data DATA --dtype bfloat16

With --task a prompt is tuned first, on 512 training rows. The prompt scores the rows once; each split takes half of
them as kept rows and measures the promise on the other half. Sets are compared with those of another score (APS, Romano
et al. 2020, without its random part), thresholds with others that promise the same. The prompt's own kept rows, which
chose its epoch, are measured on all rows.
"""

import argparse
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import overture
from common import script_parser
from overture.core.files import write_json
from overture.core.records.shares import WHOLE, Doubt, kept_shares
from overture.core.rows import Prediction
from overture.core.versions import versions
from overture.data.rows import gold_of
from overture.data.task_rows import rows_of_file
from overture.engine.load import load_backbone
from overture.evaluate.doubt import (
    CONFIDENCE,
    answer_threshold,
    binomial_tail,
    certainty_measured,
    certainty_of,
    least_share,
)
from overture.evaluate.host import Host
from overture.evaluate.scoring import score
from overture.store.store import Store
from tasks import WORDINGS, decoder_task, splits_of

NUM_SPLITS = 200
Pair = tuple[int, tuple[int, ...]]


def lac(kept: Sequence[Pair], new: Sequence[Pair], coverage: float) -> tuple[float, float]:
    """Coverage and mean size of the product's sets."""
    least = least_share([parts[gold] for gold, parts in kept], coverage)
    sets = [{n for n, part in enumerate(parts) if part >= least} or {parts.index(max(parts))} for _, parts in new]
    return _covered(sets, new)


def mass(parts: Sequence[int], label: int) -> int:
    """The shares of a label and of all that are likelier."""
    return sum(part for part in parts if part > parts[label]) + parts[label]


def aps(kept: Sequence[Pair], new: Sequence[Pair], coverage: float) -> tuple[float, float]:
    """Coverage and mean size of sets by cumulative mass."""
    masses = sorted(mass(parts, gold) for gold, parts in kept)
    rank = math.ceil(round((len(masses) + 1) * coverage, 9))
    most = masses[rank - 1] if rank <= len(masses) else WHOLE * 2
    sets = [{n for n in range(len(parts)) if mass(parts, n) <= most} or {parts.index(max(parts))} for _, parts in new]
    return _covered(sets, new)


def _covered(sets: Sequence[set[int]], new: Sequence[Pair]) -> tuple[float, float]:
    held = sum(gold in labels for labels, (gold, _) in zip(sets, new, strict=True))
    return held / len(new), statistics.fmean(map(len, sets))


def chained(answers: Sequence[tuple[int, bool]], wanted: float) -> int | None:
    """The product's threshold."""
    threshold = answer_threshold(answers, wanted)
    return threshold.above if threshold else None


def corrected(answers: Sequence[tuple[int, bool]], wanted: float) -> int | None:
    """The lowest of 20 thresholds that a test corrected for all of them allows (Bonferroni)."""
    ranked, best = sorted(answers, reverse=True), None
    for step in range(1, 21):
        count = len(ranked) * step // 20
        above = next((value for value, _ in ranked[count:] if value < ranked[count - 1][0]), -1)
        given = [is_right for value, is_right in ranked if value > above]
        if binomial_tail(sum(given), len(given), wanted) <= (1 - CONFIDENCE) / 20:
            best = above
    return best


def empirical(answers: Sequence[tuple[int, bool]], wanted: float) -> int | None:
    """The lowest threshold at which the kept rows themselves are right often enough: it promises nothing."""
    ranked, best, right = sorted(answers, reverse=True), None, 0
    for count, (value, is_right) in enumerate(ranked, 1):
        right += is_right
        if right >= wanted * count:
            best = value - 1
    return best


def over_splits(pairs: Sequence[Pair], coverages: Sequence[float], precisions: Sequence[float]) -> dict[str, Any]:
    """What came of the promises, over random halves."""
    sets: dict[str, Callable[..., tuple[float, float]]] = {"LAC": lac, "APS": aps}
    rules = {"chains": chained, "Bonferroni": corrected, "empirical": empirical}
    result: dict[str, Any] = {"sets": [], "abstaining": []}
    half = len(pairs) // 2
    halves = [random.Random(seed).sample(range(len(pairs)), len(pairs)) for seed in range(NUM_SPLITS)]
    splits = [([pairs[n] for n in order[:half]], [pairs[n] for n in order[half:]]) for order in halves]
    for wanted in coverages:
        for name, rule in sets.items():
            covered, sizes = zip(*(rule(kept, new, wanted) for kept, new in splits), strict=True)
            facts = {
                "mean": statistics.fmean(covered),
                "sd": statistics.stdev(covered),
                "size": statistics.fmean(sizes),
            }
            result["sets"].append({"wanted": wanted, "score": name, **facts})
    for wanted in precisions:
        for name, rule in rules.items():
            outcomes = [_answered(rule, kept, new, wanted) for kept, new in splits]
            given = [outcome for outcome in outcomes if outcome]
            missed = sum(precision < wanted for precision, share in given if share)
            result["abstaining"].append(
                {
                    "wanted": wanted,
                    "rule": name,
                    "found": len(given),
                    "answered": statistics.fmean(share for _, share in given) if given else None,
                    "precision": statistics.fmean(precision for precision, _ in given) if given else None,
                    "missed": missed,
                }
            )
    return result


def _answered(rule: Any, kept: Sequence[Pair], new: Sequence[Pair], wanted: float) -> tuple[float, float] | None:
    above = rule([(max(parts), parts.index(max(parts)) == gold) for gold, parts in kept], wanted)
    if above is None:
        return None
    given = [parts.index(max(parts)) == gold for gold, parts in new if max(parts) > above]
    return (statistics.fmean(given) if given else 1.0), len(given) / len(new)


def tuned_prompt(args: argparse.Namespace) -> str:
    """A prompt of a task, in the store that the arguments name."""
    splits = splits_of(args.task, args.data, args.train, 0)
    rows = {name: [dict(row.fields) for row in splits[name]] for name in ("train", "validation")}
    # The task's own options, without the files that rows replace.
    task = decoder_task(args.task).model_dump(mode="json", exclude_unset=True, exclude={"data"})
    result = overture.tune(task, rows, store=args.store, baselines=False, shots=0, dtype=args.dtype)
    assert result.prompt is not None, "it is kept"
    return result.prompt


def main() -> None:
    parser = script_parser(__doc__, "coverage", threads=1)
    parser.add_argument("--prompt", help="a stored prompt, with --store and --rows")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--task", choices=list(WORDINGS), help="tune a prompt of this task, with --data")
    parser.add_argument("--data", type=Path, help="folder with TASK/{train,validation,test}.jsonl")
    parser.add_argument("--train", type=int, default=512, help="training rows, with --task")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.task:
        args.store, args.rows = Path(tempfile.mkdtemp()), args.data / args.task / "test.jsonl"
        args.prompt = tuned_prompt(args)
    backbone = load_backbone("smollm2", device="cpu", dtype=args.dtype) if args.task else None
    handle = Host(backbone, Store(args.store)).open(args.prompt)
    rows, _ = rows_of_file(handle.task, args.rows)
    scored = score(handle.model(), handle.encoder.encode(rows), handle.task, gold_of(handle.task, rows))
    shares = scored.kept_shares(handle.task, "file")
    assert shares is not None, "the prompt has labels"
    pairs = shares.pairs()
    labels = tuple(handle.task.words)
    # The prompt's own validation rows, against all rows.
    validation_certainty = certainty_of(handle.manifest, handle.task, Doubt(coverage=0.9))
    said = [
        Prediction(labels[parts.index(max(parts))], tuple(part / WHOLE for part in parts), labels=labels)
        for _, parts in pairs
    ]
    by_validation = (
        certainty_measured(validation_certainty, [labels[gold] for gold, _ in pairs], said).dump()
        if validation_certainty
        else None
    )
    accuracy = statistics.fmean(parts.index(max(parts)) == gold for gold, parts in pairs)
    kept = kept_shares([(gold, [part / WHOLE for part in parts]) for gold, parts in pairs], "file", False)
    write_json(
        args.out / f"{handle.task.name}.json",
        {
            "prompt": handle.manifest.ref,
            "method": f"{handle.manifest.method} {handle.manifest.place}",
            "backbone": handle.manifest.backbone.id,
            "dtype": args.dtype,
            "num_rows": len(pairs),
            "num_labels": len(labels),
            "accuracy": accuracy,
            "splits": NUM_SPLITS,
            **over_splits(pairs, (0.8, 0.9, 0.95, 0.99), (0.85, 0.9, 0.95)),
            "by_validation_rows": by_validation,
            "manifest_bytes": len(handle.manifest.shares.rows) if handle.manifest.shares else 0,
            "shares": kept.rows if kept else "",
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main()
