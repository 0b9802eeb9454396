"""What the sections of docs/benchmarks.md are written with."""

import re
from collections.abc import Sequence
from typing import Any

from overture.core.records.scores import Paired
from overture.evaluate.over_seeds import Difference


def marked(name: str, text: str) -> str:
    return f"<!-- {name}:begin -->\n{text.strip()}\n<!-- {name}:end -->"


def with_section(page: str, name: str, text: str) -> str:
    """The page with one section's text replaced; a section that it lacks is added at the end."""
    pattern = re.compile(f"<!-- {name}:begin -->.*?<!-- {name}:end -->", re.DOTALL)
    new = marked(name, text)
    if pattern.search(page):
        return pattern.sub(lambda _: new, page, count=1)
    return f"{page.rstrip()}\n\n{new}\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], are_numbers: bool = True) -> str:
    """A Markdown table; all columns but the first are numbers, or none is."""
    lines = [head, ["---", *["---:" if are_numbers else "---"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def threads(result: dict[str, Any]) -> str:
    return f"{result['threads']} thread{'s' * (result['threads'] != 1)}"


def ranged(spread: dict[str, float], digits: int = 1, unit: str = "") -> str:
    """Median and range."""
    low, high = f"{spread['min']:.{digits}f}", f"{spread['max']:.{digits}f}"
    return f"{spread['median']:.{digits}f}{unit} ({low}-{high})"


def points(difference: Paired | Difference) -> str:
    """A difference of accuracies in points with its interval."""
    gap = difference.difference
    return f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f}, n = {gap.n:,})"
