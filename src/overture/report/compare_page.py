"""The report of a comparison: one HTML page that needs no other file, and the summary as JSON.

Charts stand in the page as SVG, so it opens offline and runs no script. The template escapes all that users wrote.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from overture.core.files import write_atomic
from overture.core.records.cells import MAX_VALIDATION
from overture.core.records.compare import OVER_SEEDS, Summary, cost_of
from overture.report.charts import spec_of
from overture.report.compare_charts import charts
from overture.report.render import rendered


def write_report(summary: Summary, folder: Path) -> Path:
    """Write ``report.html`` and ``result.json``; returns the page's path.

    Args:
        summary: of the comparison.
        folder: where to write; files of the same names are replaced.
    """
    import vl_convert

    svgs = {name: vl_convert.vegalite_to_svg(spec_of(chart)) for name, chart in charts(summary).items()}
    page_path = folder / "report.html"
    write_atomic(page_path, page(summary, svgs))
    result = json.dumps(summary.dump(), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomic(folder / "result.json", result + "\n")
    return page_path


def page(summary: Summary, svgs: Mapping[str, str]) -> str:
    """The page as HTML.

    Args:
        summary: of the comparison.
        svgs: chart's name -> SVG.
    """
    enough = defaultdict(list)
    for result in summary.enough:
        enough[result.than].append(result)
    # Rates that were given with the request.
    set_by_hand = {
        way
        for way, settings in summary.request.settings.items()
        if any(text.partition("=")[0].strip() == "train.lr" for text in settings)
    }
    rate_reasons = defaultdict(list)
    for way, choice in summary.rates.items():
        if choice.tried:
            reason = f"chosen among its few on validation rows, at {choice.size} rows with seed {choice.seed}"
        else:
            is_set = way in set_by_hand
            reason = "set by hand" if is_set else "ran at their default, none was chosen on this task"
        rate_reasons[reason].append(way)
    means = [(name, mean) for metrics in summary.metrics for name, mean in metrics.values.items()]
    return rendered(
        "compare.html",
        result=summary,
        charts=svgs,
        costs={score.way: cost_of(summary.ledger, score.way, score.size) for score in summary.at_largest},
        sizes_with_costs=[size for size in summary.sizes if any(cost.size == size for cost in summary.ledger)],
        enough=enough,
        set_by_hand=set_by_hand,
        rate_reasons=rate_reasons,
        metric_names=list(dict.fromkeys(name for name, _ in means)),
        metrics_over_seeds=list(dict.fromkeys(name for name, mean in means if mean.method == OVER_SEEDS)),
        validation_rows=dict(sorted((cost.size, cost.validation_rows) for cost in summary.ledger if cost.size)),
        max_validation=MAX_VALIDATION,
        request=json.dumps(summary.request.dump(), indent=1, ensure_ascii=False),
    )
