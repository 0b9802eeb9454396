"""docs/sizes.md: quality and cost over model size and training rows, from three comparisons on the same questions.

overture compare bench/tasks/trec.yaml ... -o docs/reports/trec          (the commands stand in each result.json)
python bench/pages/sizes_page.py [--check]
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import altair as alt

sys.path.insert(0, str(Path(__file__).parents[1]))

from overture.core.files import write_atomic
from overture.core.records.base import read_record
from overture.core.records.compare import Cost, Score, Summary
from overture.report.charts import WIDE, colour_of, data, png_of, shape_of
from overture.report.compare_page import RESULT
from page_parts import marked, table, with_section
from reports import RATE_COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
MODELS = {
    "trec-minilm": "MiniLM-L6, an encoder",
    "trec": "SmolLM2, a decoder",
    "trec-gemma": "Gemma 3, a decoder",
}
"""Reports, the smallest model first."""

WAYS = {"no-prompt": "no-prompt", "prefix-memory": "prefix", "prefix-after": "prefix", "lora": "lora", "full": "full"}
"""Ways by the name that the chart gives them: an encoder has its prefix at another place than a decoder."""

NAMES = list(dict.fromkeys(WAYS.values()))


def summaries() -> dict[str, Summary]:
    """The summaries of the models whose comparison is there."""
    read = {name: read_record(Summary, DOCS / "reports" / name / RESULT) for name in MODELS}
    return {name: summary for name, summary in read.items() if summary}


def millions(summary: Summary) -> str:
    return f"{summary.backbone.parameters / 1e6:.0f}M"


def shown(results: dict[str, Summary]) -> Iterator[tuple[str, Summary, Score]]:
    """Scores of the ways that are held against each other."""
    for name, summary in results.items():
        for score in summary.scores:
            if score.way in WAYS:
                yield name, summary, score


def chart(results: dict[str, Summary]) -> alt.FacetChart:
    """A panel for each model: accuracy over training rows."""
    panels = [f"{MODELS[name]} ({millions(summary)})" for name, summary in results.items()]
    points = []
    for name, summary, score in shown(results):
        panel, way = panels[list(results).index(name)], WAYS[score.way]
        # What needs no rows is a line across.
        sizes = [score.size] if score.size else [min(summary.sizes), max(summary.sizes)]
        shift = 1.03 ** (NAMES.index(way) - 2)
        points += [
            {
                "model": panel,
                "way": way,
                "rows": size * shift,
                **{key: getattr(score, key) for key in ("value", "low", "high")},
            }
            for size in sizes
        ]
    sizes = sorted({size for summary in results.values() for size in summary.sizes})
    x = alt.X(
        "rows:Q",
        title="training rows",
        scale=alt.Scale(type="log", base=2, domain=[sizes[0] * 0.85, sizes[-1] * 1.18], nice=False),
        axis=alt.Axis(values=sizes, format="d", grid=False),
    )
    base = alt.Chart().encode(x=x, color=colour_of("way", NAMES))
    y = alt.Y("value:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]))
    layers = alt.layer(
        base.mark_rule(strokeWidth=1.5, opacity=0.5).encode(y=alt.Y("low:Q", title="accuracy"), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape_of("way", NAMES)),
        data=data(points),
    ).properties(width=(WIDE - 120) // len(panels), height=260)
    header = alt.Header(title=None, labelFontSize=12, labelFontWeight="bold")
    return layers.facet(alt.Column("model:N", sort=panels, header=header), title="Question types: three models")


def cost_of(summary: Summary, way: str, size: int) -> Cost | None:
    return next((cost for cost in summary.ledger if (cost.way, cost.size) == (way, size)), None)


def lines(results: dict[str, Summary]) -> list[list[str]]:
    """A line for each model, way and number of rows that all models have."""
    common = set.intersection(*(set(summary.sizes) for summary in results.values()))
    rows = []
    for name, summary, score in shown(results):
        if score.size and score.size not in common:
            continue
        cost = cost_of(summary, score.way, score.size)
        costs = (
            ["", "", ""]
            if not score.size or cost is None
            else [f"{cost.cpu_seconds:.0f}", f"{cost.trainable:,}", f"{cost.stored_bytes / 1e6:.1f}"]
        )
        rows.append(
            [
                f"{MODELS[name].partition(',')[0]} {millions(summary)}",
                score.way,
                str(score.size or ""),
                f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})",
                str(score.n_seeds),
                *costs,
            ]
        )
    return rows


def section(results: dict[str, Summary]) -> str:
    """The chart, the table, and the commands."""
    head = ["model", "way", "rows", "accuracy (95%)", "seeds", "processor s", "trained values", "MB kept"]
    commands = "\n".join(
        line for name, summary in results.items() for line in (RATE_COMMANDS.get(name), summary.command) if line
    )
    return (
        f"![Accuracy over training rows on three models](images/sizes.png)\n\n{table(head, lines(results))}\n\n"
        f"```sh\n{commands}\n```"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare the page with the reports")
    args = parser.parse_args()
    path, results = DOCS / "sizes.md", summaries()
    before = path.read_text(encoding="utf-8")
    if args.check:
        if marked("sizes", section(results)) not in before:
            sys.exit(f"{path} does not say what the reports say\n  fix: python bench/pages/sizes_page.py")
        return
    write_atomic(DOCS / "images" / "sizes.png", png_of(chart(results)))
    write_atomic(path, with_section(before, "sizes", section(results)).encode())


if __name__ == "__main__":
    main()
