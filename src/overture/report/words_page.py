"""The page and the picture of a search for words, and of a search of all forms: scores, tests, what was tried."""

from collections.abc import Sequence
from pathlib import Path

from overture.core.files import write_atomic
from overture.core.records.hard import FormsResult, HardResult
from overture.core.records.scores import Interval, VerdictWords
from overture.report.charts import WIDE, interval_chart, png_of, svgs
from overture.report.render import rendered


def write_words_page(result: HardResult, commands: Sequence[str], page_path: Path) -> Path:
    """Write the page of a search for words and, beside it, its picture; returns the page's path.

    Args:
        result: of the search.
        commands: what to type next.
        page_path: of the page.
    """
    split = "test" if "test" in result.metrics else "validation"
    scores = {"the winner": result.metrics[split][result.metric]}
    scores |= {claim.control: claim.control_score for claim in result.claims}
    what = f"{result.winner.title}: {result.metric.replace('_', ' ')} {scores['the winner'].value:.3f}."
    if result.has_shuffled_labels:
        what = "Labels were shuffled: any gain claimed below is a false positive."
    elif result.prompt is None:
        what = "No prompt of words was better than the task file's own template."
    luck = result.luck
    why = f"{sum(stage.proposed for stage in result.stages)} candidates raced on validation rows, by likelihood alone. "
    if luck:
        why += (
            f"By luck alone the best of {luck.finalists} equal finalists looks about {100 * luck.points:.1f} points "
            "better there; the scores below are free of this."
        )
    return _written(result, split, scores, what, why, commands, page_path)


def write_forms_page(result: FormsResult, commands: Sequence[str], page_path: Path) -> Path:
    """Write the page of a search of all forms and its picture; arguments as for `write_words_page`."""
    names = {"none": "no prompt", "hard": "the best words", "soft": "trained"}
    scores = {
        names[form.form] + (f", {form.what}" if form.form == "soft" else ""): form.test or form.validation
        for form in result.forms
    }
    winner = result.forms[0]
    what = f"{winner.what} won: {result.metric.replace('_', ' ')} {(winner.test or winner.validation).value:.3f}."
    if result.prompt is None:
        what = "No prompt was worth its cost: the model as it is won."
    why = "Validation rows chose among the best of each form; of those that cannot be told apart the cheapest wins."
    return _written(result, result.split, scores, what, why, commands, page_path)


def _written(
    result: HardResult | FormsResult,
    split: str,
    scores: dict[str, Interval],
    what: str,
    why: str,
    commands: Sequence[str],
    page_path: Path,
) -> Path:
    metric = result.metric.replace("_", " ")
    rows = [{"way": name, "value": score.value, "low": score.low, "high": score.high} for name, score in scores.items()]
    title = f"{metric} on {next(iter(scores.values())).n} {split} rows, 95% intervals"
    next_step = f"Use it: {commands[0]}" if commands else "Keep the model as it is."
    page = rendered(
        "words.html",
        result=result,
        metric=metric,
        split=split,
        scores=scores,
        words=VerdictWords(what=what, why=why, next=next_step),
        figure_of_scores=svgs(lambda width: interval_chart(rows, metric, width), title),
        figure_title=title,
        stages=result.stages if isinstance(result, HardResult) else [],
        text=result.text if isinstance(result, HardResult) else None,
        wording=result.winner.wording.dump() if isinstance(result, HardResult) else {},
        commands=commands,
    )
    write_atomic(page_path, page)
    chart = interval_chart(rows, metric, WIDE).properties(title=f"{result.task}: {title}")
    write_atomic(page_path.with_suffix(".png"), png_of(chart))
    return page_path
