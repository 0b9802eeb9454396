"""``overture search`` and ``overture lr``."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.hard import search_words_command
from overture.cli.options import Given, JsonOption, SetOption, StoreOption, flag, store_root, with_flags
from overture.cli.out import console, emit, loading, say, seconds_text
from overture.cli.report import asking, interval_text, show_next
from overture.cli.tune import BACKBONE, LENGTH, METHOD, PLACE, finish, worked
from overture.core.errors import ConfigError
from overture.jobs.run.request import TuneConfig, check_no_adapter, resolved
from overture.jobs.search.options import LrConfig, SearchRequest
from overture.jobs.wording.options import HardRequest

if TYPE_CHECKING:
    from rich.table import Table

    from overture.core.records.search import RateResult, SearchResult
    from overture.core.records.tune import StoppedRun

_MAX_TABLE_TRIALS = 20


_SPACE = ("method", "place", "length", "init", "layer", "epochs", "template", "lr")
_BUDGET = ("tunes", "seconds", "tokens", "money", "price")
_WORDS = ("text", "room", "minutes", "max_tokens", "shuffle_labels")


@with_flags(
    flag(SearchRequest, "task.backbone"),
    flag(SearchRequest, "search.form"),
    flag(HardRequest, "hard.sources", "--from", metavar="PROPOSER"),
    *(flag(HardRequest, f"hard.{name}") for name in _WORDS),
    *(flag(SearchRequest, f"search.{name}") for name in (*_SPACE, *_BUDGET)),
    flag(SearchRequest, "task.name"),
    flag(SearchRequest, "train.batch_size"),
    flag(SearchRequest, "seed"),
    flag(SearchRequest, "cache_gb"),
)
def search_command(
    task: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task file; `search:` in it says the same.")],
    given: Given,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Choose method, place, length, learning rate and wording by measurement under a budget; keep the winner.

    With --form hard: find a prompt of words instead, without training.
    """
    root = store_root(store)
    flags = {**given.of(SearchRequest), **given.of(HardRequest)}
    request = resolved(HardRequest, task, flags, settings or [])
    if request.search.form == "hard":
        search_words_command(
            request, [name for name in (*_SPACE, *_BUDGET) if f"search.{name}" in flags], store, is_json
        )
        return
    if words := [key for key in flags if key.startswith("hard.")]:
        raise ConfigError("these flags are for prompts of words", got=", ".join(words), fix="add --form hard")

    from overture.jobs.run.early import check_early
    from overture.jobs.search.space import requested_pairs, wordings
    from overture.store.store import Store

    config, kept = resolved(SearchRequest, task, given.of(SearchRequest), settings or []), Store(root, say)
    check_no_adapter(config, "search")
    requested_pairs(config)
    wordings(config)
    check_early(config, kept)
    loading()

    from overture.jobs.search.search import search

    file = shlex.quote(str(task))
    result = worked(lambda listen, stop: search(config, kept, listen, stop, file=file), store, is_json)
    finish_search(result, store, is_json)


def finish_search(result: "SearchResult | StoppedRun", store: Path | None, is_json: bool) -> None:
    """Print a search's result and exit with its code."""
    finish(result, store, is_json, _show)


def _show(result: "SearchResult", flag: str) -> None:
    out = console()
    out.print()
    out.print(_trials_table(result))
    if len(result.trials) > _MAX_TABLE_TRIALS:
        out.print(f"... and {len(result.trials) - _MAX_TABLE_TRIALS} more in the run's result.json")
    out.print(_race_table(result))
    split = "test" if "test" in result.metrics else "validation"
    score = result.metrics[split][result.metric]
    winner = next(lane for lane in result.race if lane.is_winner)
    out.print(
        f"The winner, {winner.title}: {result.metric} {score.value:.3f} on {score.n} {split} rows, "
        f"95% interval {interval_text(score)}."
    )
    spent = result.spent
    money = "" if spent.money is None else f", {spent.money:.2f} in money"
    out.print(
        f"Spent: {spent.tokens:,.0f} live tokens, {seconds_text(spent.seconds)}{money}; "
        f"{spent.share:.0%} of the budget of {spent.limit:,.0f} {spent.unit}."
    )
    for notice in result.notices:
        out.print(f"note: {notice}")
    if result.charts:
        out.print(f"Chart: {result.charts[-1]}", soft_wrap=True)
    if not result.prompt:
        out.print("No prompt was worth its cost: the model as it is won, so nothing was kept.")
        return
    commands = [result.command + flag, asking(result.prompt, str(result.folder), flag)]
    show_next(f"Kept as {result.prompt}. To repeat it, and to use it:", commands)


def _trials_table(result: "SearchResult") -> "Table":
    from rich.table import Table

    table = Table(title=f"{result.task}: tried, on validation rows, one seed", title_justify="left")
    for head in ("", result.metric, "loss", "epochs", "live tokens", "tokens a request", "seconds", "frontier"):
        table.add_column(head, justify="right" if head else "left")
    ranked = sorted(result.trials, key=lambda trial: -1 if trial.score is None else trial.score, reverse=True)
    for trial in ranked[:_MAX_TABLE_TRIALS]:
        table.add_row(
            f"{trial.title}, wording {trial.wording + 1}" if trial.wording else trial.title,
            "diverged" if trial.score is None else f"{trial.score:.3f}",
            "-" if trial.loss is None else f"{trial.loss:.3f}",
            f"{trial.epochs_done}/{trial.epochs}",
            f"{trial.tokens:,.0f}",
            str(trial.serving),
            f"{trial.seconds:.1f}",
            "*" if trial.is_frontier else "",
        )
    return table


def _race_table(result: "SearchResult") -> "Table":
    from rich.table import Table

    table = Table(title="the race, on fresh seeds", title_justify="left")
    for head in ("", f"mean {result.metric}", "seeds", "p against the leader", "tokens a request", ""):
        table.add_column(head, justify="right" if head else "left")
    for lane in sorted(result.race, key=lambda lane: lane.mean, reverse=True):
        table.add_row(
            lane.title + (" (task file)" if lane.is_default else ""),
            f"{lane.mean:.3f}",
            str(len(lane.scores)),
            "-" if lane.p_value is None else f"{lane.p_value:.3f}",
            str(lane.serving),
            "winner" if lane.is_winner else ("dropped" if lane.dropped_after else ""),
        )
    return table


@with_flags(
    *(flag(LrConfig, name) for name in LrConfig.model_fields),
    BACKBONE,
    METHOD,
    PLACE,
    LENGTH,
)
def lr_command(
    task: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task file.")],
    given: Given,
    chart: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Write the chart as PATH.png, .html and .json."),
    ] = None,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Find the learning rate: a few dozen steps at growing rates on a prompt that is thrown away."""
    root = store_root(store)

    from overture.cli.progress import display
    from overture.core.config import validated
    from overture.jobs.run.early import check_early
    from overture.store.store import Store

    config = validated(LrConfig, given.of(LrConfig), "overture lr")
    request = resolved(TuneConfig, task, given.of(TuneConfig), settings or [])
    check_no_adapter(request, "overture lr")
    kept = Store(root, say)
    check_early(request, kept)
    loading()

    from overture.jobs.search.lr import lr

    show = display()
    with show.live():
        result = lr(request, kept, config, out=chart, listener=show)
    if is_json:
        emit(result.dump())
        return
    _show_rates(result)
    rate = result.suggested or result.default
    way = f"--method {result.method} --place {result.place} --length {result.length}"
    show_next("Next:", [f"overture tune {shlex.quote(str(task))} {way} --set train.lr={rate:.2g}"])


def _show_rates(result: "RateResult") -> None:
    from rich.table import Table

    out = console()
    table = Table(title=f"{result.task}, {result.method}-{result.place}", title_justify="left")
    for head in ("learning rate", "loss", "smoothed"):
        table.add_column(head, justify="right")
    steps = list(zip(result.rates, result.losses, result.smooth, strict=True))
    for rate, loss, smooth in steps[:: max(1, len(steps) // 16)]:
        table.add_row(f"{rate:.2g}", f"{loss:.3f}", f"{smooth:.3f}")
    out.print(table)
    if result.suggested:
        out.print(f"The loss blew up at {result.blow_up:.2g}; a tenth of that is suggested: {result.suggested:.2g}.")
    else:
        out.print(f"The loss never blew up, so the test tells nothing: the usual rate stays, {result.default:.2g}.")
    took = seconds_text(result.seconds)
    out.print(f"It fell fastest at {result.steepest:.2g}, which single batches decide as well ({took}).")
    for path in result.charts:
        out.print(f"chart: {path}", soft_wrap=True)
