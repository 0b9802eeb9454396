"""The page and the picture of a search: what won, what was tried, what it cost, how to use it."""

from collections.abc import Sequence
from pathlib import Path

from overture.core.files import write_atomic
from overture.core.records.scores import VerdictWords
from overture.core.records.search import SearchResult
from overture.report.charts import png_of, svgs
from overture.report.render import rendered
from overture.report.search_charts import pareto_chart

_MAX_TRIALS = 40


def write_search_page(result: SearchResult, commands: Sequence[str], page_path: Path) -> Path:
    """Write the page and, beside it, its picture; returns the page's path.

    Args:
        result: of the search.
        commands: what to type next.
        page_path: of the page.
    """
    write_atomic(page_path, search_page(result, commands))
    title = f"{result.task}: score and cost of every trial"
    chart = pareto_chart(result.trials, _metric(result), result.winner.key).properties(title=title)
    write_atomic(page_path.with_suffix(".png"), png_of(chart))
    return page_path


def search_page(result: SearchResult, commands: Sequence[str]) -> str:
    """The page as HTML: it needs no other file and runs no script."""
    split = "test" if "test" in result.metrics else "validation"
    ranking = sorted(result.trials, key=lambda trial: -1.0 if trial.score is None else trial.score, reverse=True)
    metric = _metric(result)
    return rendered(
        "search.html",
        result=result,
        split=split,
        metric=metric,
        score=result.metrics[split][result.metric],
        words=_words(result, split, commands),
        figure_of_trials=svgs(
            lambda width: pareto_chart(result.trials, metric, result.winner.key, width), "score and cost of every trial"
        ),
        trials=ranking[:_MAX_TRIALS],
        num_left_out=len(ranking) - len(ranking[:_MAX_TRIALS]),
        lanes=sorted(result.race, key=lambda lane: lane.mean, reverse=True),
        commands=commands,
    )


def _words(result: SearchResult, split: str, commands: Sequence[str]) -> VerdictWords:
    """The winner, its score, and what to do next."""
    winner = next(lane for lane in result.race if lane.is_winner)
    default = next((lane for lane in result.race if lane.is_default), None)
    score, metric = result.metrics[split][result.metric], _metric(result)
    if not result.prompt:
        what = "No prompt was worth its cost: the model as it is won."
    elif default is None or default is winner:
        what = f"{'Your own setting' if default else winner.title} won: {metric} {score.value:.3f}."
    else:
        gain = f"{winner.mean:.3f} against {default.mean:.3f} of your own setting"
        what = f"{winner.title} won: mean {metric} {gain} on validation rows."
    why = (
        f"On {score.n} {split} rows, scored once, {metric} is {score.value:.3f} (95% interval {score.low:.3f} to "
        f"{score.high:.3f}). {len(result.trials)} settings were tried; {len(result.race)} raced on fresh seeds."
    )
    return VerdictWords(what=what, why=why, next=f"Use it: {commands[0]}" if commands else "Keep the model as it is.")


def _metric(result: SearchResult) -> str:
    return result.metric.replace("_", " ")
