"""A table of ways on the same rows: what each scores, what it gains on the ones it is held against, what it costs."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from effects import gaps
from overture.evaluate.intervals import across_seeds
from page_parts import points, table

Cells = Sequence[dict[str, Any]]


def way_of(cell: Mapping[str, Any]) -> str:
    """The way that a cell's file names, with its tag."""
    return str(cell["file"]).removesuffix(f"-{cell['task']}-seed{cell['seed']}")


def beside_text(cells: Cells, ways: Mapping[str, str], against: Sequence[str], seconds: str = "cpu_seconds") -> str:
    """One table a task, and how its differences are found.

    Args:
        cells: of all ways; each with a digit for every test row.
        ways: what the page calls each, in the order of its rows.
        against: the ways that the others are held against, where a task has them.
        seconds: the cells' key of what a run costs.
    """
    tasks = sorted({cell["task"] for cell in cells})
    parts = [
        _task_text(task, [cell for cell in cells if cell["task"] == task], ways, against, seconds) for task in tasks
    ]
    note = (
        "Differences are in points, paired by seed and test row over the seeds that both ways have, with their 95% "
        "intervals over seeds and rows (of one seed over the rows alone)."
    )
    return "\n\n".join([*parts, note])


def _task_text(task: str, cells: Cells, ways: Mapping[str, str], against: Sequence[str], seconds: str) -> str:
    present = {cell["way"] for cell in cells}
    others = [way for way in against if way in present]
    rows = [
        _row(way, [cell for cell in cells if cell["way"] == way], cells, ways, others, seconds)
        for way in ways
        if way in present
    ]
    head = ["way", "test accuracy", "95% interval", *(f"beside {ways[way]}" for way in others)]
    head += ["trained values", "CPU seconds", "seeds"]
    return f"#### {task}\n\n{table(head, rows)}"


def _row(
    way: str, way_cells: Cells, cells: Cells, ways: Mapping[str, str], others: Sequence[str], seconds: str
) -> list[str]:
    accuracy = across_seeds([cell["test"]["accuracy"] for cell in way_cells], bounds=(0.0, 1.0))
    return [
        ways[way],
        f"{accuracy.mean:.3f}",
        # Of two seeds the t interval may reach beyond what an accuracy can be.
        "-" if accuracy.low is None else f"{max(accuracy.low, 0):.3f}-{min(accuracy.high, 1):.3f}",
        *(_gap(way, other, cells) for other in others),
        f"{way_cells[0]['trainable']:,}",
        f"{fmean(cell[seconds] for cell in way_cells):.0f}",
        str(len(way_cells)),
    ]


def _gap(way: str, other: str, cells: Cells) -> str:
    differences = {} if way == other else gaps(way, other, cells)
    return "; ".join(map(points, differences.values())) or "-"
