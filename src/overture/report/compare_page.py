"""The report of a comparison: a page that needs no other file, its picture, and the summary as JSON.

Charts stand in the page as SVG, so it opens offline and runs no script. The template escapes all that users wrote.
"""

import json
from collections import defaultdict
from functools import partial
from pathlib import Path

from overture.core.files import write_atomic
from overture.core.records.cells import MAX_VALIDATION
from overture.core.records.compare import OVER_SEEDS, Summary, cost_of
from overture.report.charts import png_of, svgs
from overture.report.compare_charts import CHARTS, picture
from overture.report.render import rendered

_MAX_CONFUSED, _MAX_LABELS = 15, 25
"""A confusion table of more labels fits no page; of more labels than the second those with the lowest F1 are shown."""
PAGE, PICTURE, RESULT = "report.html", "report.png", "result.json"


def write_report(summary: Summary, folder: Path) -> Path:
    """Write ``report.html``, ``report.png`` and ``result.json``; returns the page's path.

    Args:
        summary: of the comparison.
        folder: where to write; files of the same names are replaced.
    """
    result = json.dumps(summary.dump(), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomic(folder / RESULT, result + "\n")
    write_atomic(folder / PAGE, page(summary))
    if (chart := picture(summary)) is not None:
        write_atomic(folder / PICTURE, png_of(chart))
    return folder / PAGE


def page(summary: Summary) -> str:
    """The page as HTML."""
    figures = {name: svgs(partial(make, summary), title) for name, (make, title) in CHARTS.items()}
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
        figures=figures,
        costs={score.way: cost_of(summary.ledger, score.way, score.size) for score in summary.at_largest},
        sizes_with_costs=[size for size in summary.sizes if any(cost.size == size for cost in summary.ledger)],
        enough=_enough_sentences(summary),
        set_by_hand=set_by_hand,
        rate_reasons=rate_reasons,
        metric_names=list(dict.fromkeys(name for name, _ in means)),
        metrics_over_seeds=list(dict.fromkeys(name for name, mean in means if mean.method == OVER_SEEDS)),
        tokenizers={name: mean.tokenizer for name, mean in means if mean.tokenizer},
        validation_rows=dict(sorted((cost.size, cost.validation_rows) for cost in summary.ledger if cost.size)),
        max_validation=MAX_VALIDATION,
        max_confused=_MAX_CONFUSED,
        f1_by_label=_f1_by_label(summary),
        has_probabilities=any(
            answer.confidence is not None
            for row in (summary.disagreement.rows if summary.disagreement else ())
            for answer in row.answers
        ),
        request=json.dumps(summary.request.dump(), indent=1, ensure_ascii=False),
    )


def _f1_by_label(summary: Summary) -> dict[str, dict[str, float | None]]:
    """Label -> way -> F1; of many labels those that the best way predicts worst."""
    f1_of = {mistakes.way: {score.label: score.f1 for score in mistakes.labels} for mistakes in summary.mistakes}
    if not f1_of:
        return {}
    best = next(iter(f1_of.values()))
    labels = list(dict.fromkeys(label for scores in f1_of.values() for label in scores))
    if len(labels) > _MAX_LABELS:
        # A label that neither occurs nor is predicted has no F1.
        labels = sorted(labels, key=lambda label: 2.0 if (f1 := best.get(label)) is None else f1)[:_MAX_LABELS]
    return {label: {way: scores.get(label) for way, scores in f1_of.items()} for label in labels}


def _enough_sentences(summary: Summary) -> list[str]:
    """For each way that uses no rows a sentence: which others were shown to be better, and from how many rows on."""
    sentences = []
    for than in dict.fromkeys(result.than for result in summary.enough):
        results = [result for result in summary.enough if result.than == than]
        better = [f"{result.way} from {result.size} rows on" for result in results if result.size]
        unknown = [result.way for result in results if not result.size]
        parts = [f"Better than {than}: {', '.join(better)}."] if better else []
        if unknown:
            parts.append(f"Not shown to be better than {than} at any size here: {', '.join(unknown)}.")
        sentences.append(" ".join(parts))
    return sentences
