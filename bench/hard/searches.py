"""Searches for words over seeds: from the results of the command to one result file a task, for docs/hard-prompts.md.

Each seed draws its own training, validation and test rows, so test rows differ between seeds. The searches themselves:

    overture search bench/tasks/trec.yaml --form hard --seed S --set data.seed=S --set data.train_rows=256 \\
      --set data.validation_rows=128 --set data.test_rows=250 --json > trec-S.json
    python bench/hard/searches.py --task trec --seeds 0 1 --cpu-seconds 90 95 --add -- trec-0.json trec-1.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from overture.core.files import write_json
from overture.core.records.hard import HardResult

RESULTS = Path(__file__).parents[1] / "results" / "hard"


def facts_of(path: Path, seed: int, dtype: str, cpu_seconds: float) -> dict[str, Any]:
    """The scores, tests and costs of one search."""
    values = json.loads(path.read_text(encoding="utf-8"))
    result = HardResult.model_validate({name: value for name, value in values.items() if name != "page"})
    assert result.luck is not None
    return {
        "seed": seed,
        "dtype": dtype,
        "test": result.metrics["test"][result.metric].dump(),
        "validation": result.metrics["validation"][result.metric].value,
        "claims": [
            {
                "control": claim.control,
                "score": claim.control_score.value,
                "difference": claim.compared.difference.value,
                "low": claim.compared.difference.low,
                "high": claim.compared.difference.high,
                "p_corrected": claim.p_corrected,
                "is_better": claim.is_better,
            }
            for claim in result.claims
        ],
        "rows": result.rows,
        "luck": result.luck.dump(),
        "winner": result.winner.dump(),
        "candidates": {stage.stage: stage.proposed for stage in result.stages},
        "row_scores": sum(stage.row_scores for stage in result.stages),
        "tokens": result.tokens,
        "seconds": result.seconds,
        "cpu_seconds": cpu_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", nargs="+", type=Path, help="what `overture search --json` printed, in the order of --seeds"
    )
    parser.add_argument("--task", required=True)
    parser.add_argument("--seeds", required=True, nargs="+", type=int, help="the seed of each result")
    parser.add_argument(
        "--cpu-seconds", required=True, nargs="+", type=float, help="of each command, as the shell's time says"
    )
    parser.add_argument("--dtype", default="float32", help="precision of the model in these searches")
    parser.add_argument("--settings", default="", help="further settings of the command, for the record")
    parser.add_argument("--add", action="store_true", help="keep other seeds that the result file holds already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    path = args.out / f"search-{args.task}.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["seeds"] if args.add and path.exists() else []
    kept = [seed for seed in kept if seed["seed"] not in args.seeds]
    new = [
        facts_of(path, seed, args.dtype, cpu_seconds)
        for path, seed, cpu_seconds in zip(args.results, args.seeds, args.cpu_seconds, strict=True)
    ]
    seeds = sorted([*kept, *new], key=lambda seed: seed["seed"])
    command = (
        f"overture search bench/tasks/{args.task}.yaml --form hard --seed S --set data.seed=S {args.settings}".strip()
    )
    write_json(path, {"command": command, "task": args.task, "seeds": seeds})
    print(f"{args.task}: {len(seeds)} seeds, mean {sum(seed['test']['value'] for seed in seeds) / len(seeds):.3f}")


if __name__ == "__main__":
    main()
