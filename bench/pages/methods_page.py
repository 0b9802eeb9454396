"""Write docs/methods.md: the methods and families from the code, what was measured from the result files.

python bench/pages/methods_page.py
"""

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from beside import way_of
from effects import Studies, effects_text, standings
from methods_grid import KINDS, cached, grid_text
from overture.core.files import write_atomic
from overture.engine.families import FAMILIES
from overture.evaluate.intervals import across_seeds
from overture.prompt.methods import METHODS
from page_parts import table, with_section
from studies import (
    cartridge_differences,
    cartridge_text,
    equal_text,
    pruned_differences,
    sensitivity_text,
    shared_text,
    starts_text,
    together_text,
)

BENCH = Path(__file__).parents[1]
PAGE = "# Methods\n"
Cells = Sequence[dict[str, Any]]


def methods_text(cells: Cells, studies: Studies) -> str:
    """Every method: what it trains, where it can enter, how many values, whether its effect was seen here."""
    head = ["method", "what is trained", "places", "trained values", "learning rate", "options", "source", "standing"]
    standing = standings(cells, studies)
    rows = [
        [
            name,
            method.title,
            ", ".join(method.places),
            method.formula_text,
            ", ".join(sorted({f"{rate:g}" for rate in method.learning_rate.values()})),
            ", ".join(method.options.model_fields) or "-",
            method.source,
            standing[name],
        ]
        for name, method in METHODS.items()
    ]
    note = (
        "P prompt length, D model width, N layers, H key/value heads, K head width, C labels, d width of CLIP's texts; "
        "other letters are said beside the formula, and so is what an option changes of it. Label vectors beside a "
        "method (`prompt.labels`) add C D. `overture methods NAME` explains a method's options; the files in "
        "`src/overture/prompt` hold the mathematics, and where we deviate from the papers. `reproduced`: an "
        "ordering of its paper was seen here (see Effects); `experimental`: it was not, or not measured."
    )
    return f"{table(head, rows, are_numbers=False)}\n\n{note}"


def families_text() -> str:
    """Every family, and what its kind of model allows."""
    rows = [
        [
            name,
            family.kind,
            "labels, beside images"
            if family.is_stack and family.has_words and not family.encoder
            else family.reads or (family.encoder and family.encoder.reads) or "text",
            "in the input" if family.reads else "relative" if family.is_rotary else "learned",
        ]
        for name, family in sorted(FAMILIES.items(), key=lambda item: (KINDS.index(item[1].kind), item[0]))
    ]
    note = (
        "In decoders every method of texts works at each of its places. `coop`, `kgcoop`, `maple` and `promptsrc` "
        "stand among the labels' words in the tower of texts of CLIP and SigLIP ([images.md](images.md)); any other "
        "model refuses them. In encoder-decoders `before`, `slots` and `memory` are in the encoder; `after` is in the "
        "decoder, whose prompt leaves the encoder's output as it is, so that it is kept. Encoders answer label tasks: "
        "one-token words at a mask, or label vectors (`prompt.labels`). In every cell of the grid, family by family, "
        "`tests/contract/test_grid.py` holds loss and gradients to the untouched model's, with and without kept "
        "inputs, or the refusal to an error with a fix; the other laws hold in a sample of the cells. "
        "`test_vision.py`, `test_captions.py`, `test_vlm.py` and `test_sound.py` beside it hold the laws for images "
        "and sounds. LLaVA, Idefics 3, SmolVLM, Gemma 3 and Qwen 2.5-VL are families of their language model. Any "
        "other family is refused when the model is loaded, with the list of those that work."
    )
    return f"{table(['family', 'kind', 'reads', 'positions'], rows, are_numbers=False)}\n\n{note}\n\n{grid_text()}"


MADE = (
    "Made by `python bench/quality/methods.py --data DIR`, which has the plan: every method with place, length, "
    "options and seeds. It runs the cells that are missing (`--minutes 60` ends it between two), so the tables fill "
    "over several sittings; each cell in `bench/results` tells its own settings. Those of "
    "`prefix-after` are docs/benchmarks.md's."
)


def measured_text(cells: Cells) -> str:
    """Test accuracy of every method that was run, task by task."""
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        by_task[cell["task"]].append(cell)
    head = (
        "SmolLM2-135M-Instruct, 256 training rows, 256 validation rows (they choose the epoch), 1,000 test rows scored "
        "once. Mean over the seeds and the 95% t interval of the mean; a seed draws rows, start and order. Seconds "
        "are CPU seconds of training and validation on one thread. Cached: whether the inputs run through the model "
        "once and are kept. 'no': it reads them anew in every pass, since what is tuned stands in front of them or "
        f"changes them; 'partly': only the layers below the prompt's run once. {_few_seeds(cells)}"
    )
    return "\n\n".join([head, *(_task_text(task, found) for task, found in sorted(by_task.items())), MADE])


def _few_seeds(cells: Cells) -> str:
    """Why some ways have one seed, with what a run of theirs takes, in runs of the same prompt behind kept inputs."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        found[cell["task"]][cell["way"]].append(cell["cpu_seconds_with_validation"])
    pairs = [
        (fmean(own[way]) / fmean(own[f"{method}-after"]))
        for own in found.values()
        for way in own
        for method, place in [way.rsplit("-", 1)]
        if cached(method, place) == "no" and f"{method}-after" in own
    ]
    if not pairs:
        return ""
    return (
        "Most ways whose inputs cannot be kept have fewer seeds: a run takes "
        f"{min(pairs):.1f} to {max(pairs):.1f} times as long as one of the same method at `after`."
    )


def _task_text(task: str, cells: Cells) -> str:
    ways: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        ways[way_of(cell)].append(cell)
    rows = sorted((_row(way, way_cells) for way, way_cells in ways.items()), key=lambda row: row[1], reverse=True)
    head = [
        "way",
        "test accuracy",
        "95% interval",
        "seeds",
        "length",
        "trained values",
        "cached",
        "CPU seconds",
        "inputs' one run, s",
        "lr, epochs",
    ]
    return f"### {task}\n\n{table(head, rows)}"


def _row(way: str, cells: Cells) -> list[str]:
    accuracy = across_seeds([cell["test"]["accuracy"] for cell in cells], bounds=(0.0, 1.0))
    # Cells of one name may be older than a default.
    settings = {(cell["config"]["train"]["lr"], cell["config"]["train"]["epochs"]) for cell in cells}
    seconds = fmean(cell["cpu_seconds_with_validation"] for cell in cells)
    kept = fmean(cell["cache_seconds"] for cell in cells)
    prompt = cells[0]["config"]["prompt"]
    is_kept = cached(prompt["method"], prompt["place"])
    return [
        way,
        f"{accuracy.mean:.3f}",
        "-" if accuracy.low is None else f"{accuracy.low:.3f}-{accuracy.high:.3f}",
        str(accuracy.n_seeds),
        str(cells[0]["config"]["prompt"]["length"]),
        f"{cells[0]['trainable']:,}",
        is_kept,
        f"{seconds:.0f}",
        "-" if is_kept == "no" else f"{kept:.0f}",
        " and ".join(f"{lr:g}, {epochs}" for lr, epochs in sorted(settings)),
    ]


def cells_in(*folders: Path) -> list[dict[str, Any]]:
    """The cells whose test rows were scored."""
    found = []
    files = sorted(file for folder in folders for file in folder.glob("*.json"))
    if twice := [name for name, count in Counter(file.name for file in files).items() if count > 1]:
        raise SystemExit(f"cells that are there twice: {', '.join(twice)}")
    for file in files:
        cell = json.loads(file.read_text(encoding="utf-8"))
        if cell.get("test"):
            found.append({**cell, "file": file.stem})
    return found


def _is_plain(cell: dict[str, Any]) -> bool:
    """Whether a cell is a way as it comes, not a variant with a tag; peft's cells are another harness's."""
    return "way" in cell and cell["file"] == f"{cell['way']}-{cell['task']}-seed{cell['seed']}"


def write_page(results: Path, docs: Path) -> None:
    """Write the page; what stands outside its sections stays."""
    file = docs / "methods.md"
    page = file.read_text(encoding="utf-8") if file.exists() else PAGE
    cells = cells_in(results / "quality", results / "methods")
    plain = [cell for cell in cells if _is_plain(cell)]
    prompts = [cell for cell in cells if cell.get("config", {}).get("prompt")]
    studies = pruned_differences(results / "starts") | cartridge_differences(results / "cartridge")
    sections = {
        "methods": methods_text(plain, studies),
        "families": families_text(),
        "measured": measured_text(prompts),
        "effects": effects_text(plain, studies),
        "sensitivity": sensitivity_text(cells_in(results / "sensitivity")),
        "starts": starts_text(results / "starts"),
        "equal": equal_text(prompts),
        "together": together_text(cells_in(results / "together")),
        "shared": shared_text(cells_in(results / "shared")),
        "cartridges": cartridge_text(results / "cartridge"),
    }
    for name, text in sections.items():
        page = with_section(page, name, text)
    write_atomic(file, page)


def is_outdated(results: Path, docs: Path) -> bool:
    page = (docs / "methods.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        write_atomic(Path(folder) / "methods.md", page)
        write_page(results, Path(folder))
        return (Path(folder) / "methods.md").read_text(encoding="utf-8") != page


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/methods.md.")
    parser.add_argument("--results", type=Path, default=BENCH / "results")
    parser.add_argument("--docs", type=Path, default=BENCH.parent / "docs")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is not up to date")
    arguments = parser.parse_args()
    if arguments.check:
        if is_outdated(arguments.results, arguments.docs):
            raise SystemExit(f"{arguments.docs / 'methods.md'} is out of date\n  fix: make docs")
        return
    write_page(arguments.results, arguments.docs)
    print(f"{arguments.docs / 'methods.md'} written")


if __name__ == "__main__":
    main()
