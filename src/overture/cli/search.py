"""``overture search`` and ``overture lr``."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.hard import search_forms_command, search_words_command
from overture.cli.options import FlagValues, JsonOption, SetOption, StoreOption, flag, open_store, with_flags
from overture.cli.out import console, emit, loading, seconds_text, show_notes, show_text
from overture.cli.report import interval_text, predict_line, show_next
from overture.cli.tables import Column, show_table
from overture.cli.tune import BACKBONE, LENGTH, METHOD, PLACE, WHERE, finish, result_of, where_of
from overture.core.errors import ConfigError
from overture.core.files import check_writable
from overture.jobs.run.request import TuneConfig, check_no_adapter, resolved
from overture.jobs.run.where import Where
from overture.jobs.search.options import LrConfig, SearchRequest
from overture.jobs.wording.options import HardRequest

if TYPE_CHECKING:
    from rich.console import Console

    from overture.core.records.search import RateResult, SearchResult

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
    flag(SearchRequest, "cache_dtype"),
    flag(SearchRequest, "cache_on_disk", "--cache-on-disk/--no-cache-on-disk"),
    flag(SearchRequest, "track"),
    *WHERE,
)
def search_command(
    task: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task file; `search:` in it says the same.")],
    flag_values: FlagValues,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Choose method, place, length, learning rate and wording by measurement under a budget; keep the winner.

    With --form hard: find a prompt of words instead, without training. With --form any: both, and which one won.
    """
    flags = {**flag_values.of(SearchRequest), **flag_values.of(HardRequest)}
    request = resolved(HardRequest, task, flags, settings or [])
    if flag_values.of(Where).get("on") and request.search.form != "soft":
        raise ConfigError(
            "only a search for trained prompts can run on workers",
            where="--on",
            got=f"--form {request.search.form}: candidates of words are chosen by the rows that others were scored on, "
            "a few passes at a time, on one machine's kept texts",
            fix="leave --on out; or --form soft",
        )
    where = where_of(flag_values)
    if request.search.form == "hard":
        search_words_command(
            request, [name for name in (*_SPACE, *_BUDGET) if f"search.{name}" in flags], store, is_json
        )
        return
    if request.search.form == "any":
        search_forms_command(request, task, store, is_json)
        return
    if words := [key for key in flags if key.startswith("hard.")]:
        raise ConfigError("these flags are for prompts of words", got=", ".join(words), fix="add --form hard")

    from overture.jobs.run.early import check_early
    from overture.jobs.search.space import requested_pairs, wordings

    config = resolved(SearchRequest, task, flag_values.of(SearchRequest), settings or [])
    prompt_store = open_store(store)
    check_no_adapter(config, "search")
    requested_pairs(config)
    wordings(config)
    check_writable(prompt_store.root)
    check_early(config, prompt_store)
    loading()

    from overture.jobs.search.search import search

    file = shlex.quote(str(task))
    result = result_of(
        lambda listen, stop: search(config, prompt_store, listen, stop, file=file, where=where), store, is_json
    )
    finish(result, store, is_json, show_search)


def show_search(result: "SearchResult", flag: str) -> None:
    """Print a search: its trials, the race, the winner, what it cost, and the next commands."""
    out = console()
    out.print()
    show_trials(out, result)
    if len(result.trials) > _MAX_TABLE_TRIALS:
        show_text(out, f"... and {len(result.trials) - _MAX_TABLE_TRIALS} more in the run's result.json")
    out.print()
    show_race(out, result)
    split = "test" if "test" in result.metrics else "validation"
    score = result.metrics[split][result.metric]
    winner = next(lane for lane in result.race if lane.is_winner)
    show_text(
        out,
        f"The winner, {winner.title}: {result.metric} {score.value:.3f} on {score.n} {split} rows, "
        f"95% interval {interval_text(score)}.",
        style="green",
    )
    spent = result.spent
    money = "" if spent.money is None else f", {spent.money:.2f} in money"
    show_text(
        out,
        f"Spent: {spent.tokens:,.0f} live tokens, {seconds_text(spent.seconds)}{money}; "
        f"{spent.share:.0%} of the budget of {spent.limit:,.0f} {spent.unit}.",
    )
    show_notes(out, result.notices)
    if not result.prompt:
        show_text(out, "No prompt was worth its cost: the model without a prompt won, so none was stored.")
        return
    commands = [result.command + flag, predict_line(result.prompt, str(result.folder), flag)]
    show_next(f"Stored as {result.prompt}. To repeat it, and to use it:", commands)


def show_trials(out: "Console", result: "SearchResult") -> None:
    """Print what was tried, the best first."""
    ranked = sorted(result.trials, key=lambda trial: -1 if trial.score is None else trial.score, reverse=True)
    ranked = ranked[:_MAX_TABLE_TRIALS]
    names = [f"{trial.title}, wording {trial.wording + 1}" if trial.wording else trial.title for trial in ranked]
    columns = [
        Column("tried", names, is_left=True),
        Column(result.metric, ["diverged" if trial.score is None else f"{trial.score:.3f}" for trial in ranked]),
        Column("loss", ["-" if trial.loss is None else f"{trial.loss:.3f}" for trial in ranked], rank=3),
        Column("epochs", [f"{trial.epochs_done}/{trial.epochs}" for trial in ranked], rank=2),
        Column("live tokens", [f"{trial.tokens:,.0f}" for trial in ranked], rank=4),
        Column("tokens a request", [str(trial.serving) for trial in ranked], rank=5),
        Column("seconds", [f"{trial.seconds:.1f}" for trial in ranked], rank=1),
        Column("frontier", ["*" if trial.is_frontier else "" for trial in ranked], rank=6),
    ]
    title = f"{result.task}: tried, on validation rows, one seed"
    show_table(out, columns, title, bad=[n for n, trial in enumerate(ranked) if trial.score is None])


def show_race(out: "Console", result: "SearchResult") -> None:
    """Print how the finalists did on fresh seeds, the best first."""
    lanes = sorted(result.race, key=lambda lane: lane.mean, reverse=True)
    columns = [
        Column("setting", [lane.title + (" (task file)" if lane.is_default else "") for lane in lanes], is_left=True),
        Column(f"mean {result.metric}", [f"{lane.mean:.3f}" for lane in lanes]),
        Column("result", ["winner" if lane.is_winner else ("dropped" if lane.dropped_after else "") for lane in lanes]),
        Column("seeds", [str(len(lane.scores)) for lane in lanes], rank=2),
        Column("p to leader", ["-" if lane.p_value is None else f"{lane.p_value:.3f}" for lane in lanes], rank=1),
        Column("tokens a request", [str(lane.serving) for lane in lanes], rank=3),
    ]
    show_table(out, columns, "the race, on fresh seeds", good=[n for n, lane in enumerate(lanes) if lane.is_winner])


@with_flags(
    *(flag(LrConfig, name) for name in LrConfig.model_fields),
    BACKBONE,
    METHOD,
    PLACE,
    LENGTH,
)
def lr_command(
    task: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task file.")],
    flag_values: FlagValues,
    chart: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Write the chart as PATH.png, .html and .json."),
    ] = None,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace files of --output that exist.")] = False,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Find the learning rate: a few dozen steps at growing rates on a prompt that is thrown away."""
    from overture.cli.progress import live_display
    from overture.core.config import validated
    from overture.data.write import check_replaced
    from overture.jobs.run.early import check_early

    config = validated(LrConfig, flag_values.of(LrConfig), "overture lr")
    request = resolved(TuneConfig, task, flag_values.of(TuneConfig), settings or [])
    check_no_adapter(request, "overture lr")
    prompt_store = open_store(store)
    for path in [chart.with_suffix(suffix) for suffix in (".png", ".html", ".json")] if chart else []:
        check_replaced(path, is_forced, [task])
    check_early(request, prompt_store)
    loading()

    from overture.jobs.search.lr import lr

    with live_display() as show:
        result = lr(request, prompt_store, config, out=chart, listener=show)
    if is_json:
        emit(result.dump())
        return
    _show_rates(result)
    rate = result.suggested or result.default
    way = f"--method {result.method} --place {result.place} --length {result.length}"
    show_next("Next:", [f"overture tune {shlex.quote(str(task))} {way} --set train.lr={rate:.2g}"])


def _rise(result: "RateResult") -> str:
    """What the loss did at the rate that ended the test."""
    if result.blow_up not in result.rates:
        return f"The loss was no longer a number at the learning rate {result.blow_up:.2g}"
    lowest, last = min(result.smooth), result.smooth[-1]
    values = f", smoothed from {lowest:.3g} to {last:.3g}" if last > lowest else ""
    return f"The loss rose for good{values}, at the learning rate {result.blow_up:.2g}"


def _show_rates(result: "RateResult") -> None:
    out = console()
    steps = list(zip(result.rates, result.losses, result.smooth, strict=True))
    steps = steps[:: max(1, len(steps) // 16)]
    columns = [
        Column("learning rate", [f"{rate:.2g}" for rate, _, _ in steps]),
        Column("loss", [f"{loss:.3f}" for _, loss, _ in steps]),
        Column("smoothed", [f"{smooth:.3f}" for _, _, smooth in steps], rank=1),
    ]
    show_table(out, columns, f"{result.task}, {result.method}-{result.place}")
    if result.suggested:
        text = f"{_rise(result)}; a tenth of that rate is suggested: {result.suggested:.2g}."
    else:
        text = f"The loss did not rise for good, so the test tells nothing: the usual rate stays, {result.default:.2g}."
    show_text(out, text, style="green" if result.suggested else "yellow")
    took = seconds_text(result.seconds)
    show_text(
        out, f"The loss fell fastest at {result.steepest:.2g}; between single batches that is partly chance ({took})."
    )
    for path in result.charts:
        out.print(f"chart: {path}", soft_wrap=True)
