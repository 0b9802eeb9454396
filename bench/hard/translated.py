"""From what `overture translate` and `overture explain` print to result files for docs/hard-prompts.md.

overture tune bench/tasks/movie.yaml --set data.train_rows=256 --set data.validation_rows=256 --store DIR
overture translate movie --store DIR --json > words.json
overture explain movie --store DIR --page page.html --json > explained.json
python bench/hard/translated.py --task movie --translate words.json --cpu-seconds 120 --settings "..."
python bench/hard/translated.py --task movie --explain explained.json --page page.html --cpu-seconds 150
"""

import argparse
import json
from pathlib import Path
from typing import Any

from overture.core.files import write_json

RESULTS = Path(__file__).parents[1] / "results"
OF_TRANSLATION = (
    "prompt", "translated_from", "split", "rows", "soft", "none", "is_gain_shown", "winner", "fidelity", "curve",
    "transfer", "tokens", "notices",
)  # fmt: skip
OF_EXPLANATION = (
    "prompt", "backbone", "task", "method", "place", "length", "split", "rows", "compared", "parts", "checks", "slices",
)  # fmt: skip


def kept(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The parts of a printed result that are kept."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return {name: values[name] for name in names if name in values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--translate", type=Path, help="what `overture translate --json` printed")
    parser.add_argument("--explain", type=Path, help="what `overture explain --json` printed")
    parser.add_argument("--page", type=Path, help="the page that `overture explain` wrote")
    parser.add_argument("--cpu-seconds", type=float, required=True, help="of the command, as the shell's time says")
    parser.add_argument("--settings", default="", help="further settings of the command, for the record")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    for command, path, names in (
        ("translate", args.translate, OF_TRANSLATION),
        ("explain", args.explain, OF_EXPLANATION),
    ):
        if path is not None:
            facts = {
                **kept(path, names),
                "command": f"overture {command} {args.task} {args.settings}".strip(),
                "cpu_seconds": args.cpu_seconds,
            }
            if args.page:
                facts["page_bytes"] = args.page.stat().st_size
            write_json(args.out / command / f"{args.task}.json", facts)


if __name__ == "__main__":
    main()
