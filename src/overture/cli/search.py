"""``overture search`` and ``overture lr``."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from overture.cli.options import JsonOption, StoreOption, field_help, local, stated, store_root
from overture.cli.out import console, emit, say, seconds_text
from overture.cli.report import asking, interval_text, show_next
from overture.cli.tune import (
    BackboneOption,
    CacheOption,
    LengthOption,
    MethodOption,
    NameOption,
    PlaceOption,
    SetOption,
    finish,
    worked,
)

_MAX_TABLE_TRIALS = 20


def _space(field: str, repeatable: bool = True) -> Any:
    text = field_help("jobs/run/search_config.py", "SearchConfig", field) + (" Repeatable." if repeatable else "")
    return typer.Option(help=text, show_default=False)


def _lr_help(field: str) -> Any:
    return typer.Option(help=field_help("jobs/search/options.py", "LrConfig", field), show_default=False)


def search_command(
    task: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task file; `search:` in it says the same.")],
    backbone: BackboneOption = None,
    method: Annotated[list[str] | None, _space("method")] = None,
    place: Annotated[list[str] | None, _space("place")] = None,
    length: Annotated[list[int] | None, _space("length")] = None,
    init: Annotated[list[str] | None, _space("init")] = None,
    layer: Annotated[list[int] | None, _space("layer")] = None,
    epochs: Annotated[list[int] | None, _space("epochs")] = None,
    template: Annotated[list[str] | None, _space("template")] = None,
    lr: Annotated[tuple[float, float] | None, _space("lr", repeatable=False)] = None,
    tunes: Annotated[float | None, _space("tunes", repeatable=False)] = None,
    seconds: Annotated[float | None, _space("seconds", repeatable=False)] = None,
    tokens: Annotated[float | None, _space("tokens", repeatable=False)] = None,
    money: Annotated[float | None, _space("money", repeatable=False)] = None,
    price: Annotated[float | None, _space("price", repeatable=False)] = None,
    name: NameOption = None,
    cache_gb: CacheOption = None,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Choose method, place, length, learning rate and wording by measurement under a budget; keep the winner."""
    root = store_root(store)
    space: dict[str, Any] = {
        "method": method,
        "place": place,
        "length": length,
        "init": init,
        "layer": layer,
        "epochs": epochs,
    }
    space |= {"template": template, "lr": lr, "tunes": tunes, "seconds": seconds, "tokens": tokens}
    space |= {"money": money, "price": price}
    flags: dict[str, Any] = {"backbone": backbone and local(backbone), "name": name, "cache_gb": cache_gb}
    flags |= {
        f"search.{key}": list(v) if isinstance(v, tuple) else v for key, v in space.items() if v not in (None, [])
    }

    from overture.jobs.run.request import resolved
    from overture.jobs.search.options import SearchRequest
    from overture.jobs.search.space import asked_pairs, wordings
    from overture.store.store import Store

    config, kept = resolved(SearchRequest, task, flags, settings or []), Store(root, say)
    asked_pairs(config)
    wordings(config)

    from overture.jobs.search.search import search

    file = shlex.quote(str(task))
    found = worked(lambda listen, stop: search(config, kept, listen, stop, file=file), store, is_json)
    finish_search(found, store, is_json)


def finish_search(found: dict[str, Any], store: Path | None, is_json: bool) -> None:
    """Print a search's result and exit with its code."""
    finish(found, store, is_json, _show)


def _show(found: dict[str, Any], flag: str) -> None:
    from rich.table import Table

    out, metric = console(), found["metric"]
    ranked = sorted(found["trials"], key=lambda one: -1 if one["score"] is None else one["score"], reverse=True)
    table = Table(title=f"{found['task']}: tried, on validation rows, one seed", title_justify="left")
    for head in ("", metric, "loss", "epochs", "live tokens", "tokens a request", "seconds", "frontier"):
        table.add_column(head, justify="right" if head else "left")
    for one in ranked[:_MAX_TABLE_TRIALS]:
        score = "diverged" if one["score"] is None else f"{one['score']:.3f}"
        loss = "-" if one["loss"] is None else f"{one['loss']:.3f}"
        spent = [f"{one['epochs_done']}/{one['epochs']}", f"{one['tokens']:,.0f}", str(one["serving"])]
        title = f"{one['title']}, wording {one['wording'] + 1}" if one["wording"] else one["title"]
        table.add_row(title, score, loss, *spent, f"{one['seconds']:.1f}", "*" if one["is_frontier"] else "")
    out.print()
    out.print(table)
    if len(ranked) > _MAX_TABLE_TRIALS:
        out.print(f"... and {len(ranked) - _MAX_TABLE_TRIALS} more in the run's result.json")
    race = Table(title="the race, on fresh seeds", title_justify="left")
    for head in ("", f"mean {metric}", "seeds", "p against the leader", "tokens a request", ""):
        race.add_column(head, justify="right" if head else "left")
    for one in sorted(found["race"], key=lambda one: one["mean"], reverse=True):
        chance = "-" if one["p_value"] is None else f"{one['p_value']:.3f}"
        end = "winner" if one["is_winner"] else ("dropped" if one["dropped_after"] else "")
        race.add_row(
            one["title"] + (" (task file)" if one["is_default"] else ""),
            f"{one['mean']:.3f}",
            str(len(one["scores"])),
            chance,
            str(one["serving"]),
            end,
        )
    out.print(race)
    split = "test" if "test" in found["metrics"] else "validation"
    score, winner = found["metrics"][split][metric], next(one for one in found["race"] if one["is_winner"])
    out.print(
        f"The winner, {winner['title']}: {metric} {score['value']:.3f} on {score['n']} {split} rows, "
        f"95% interval {interval_text(score)}."
    )
    out.print(_spent_line(found["spent"]))
    for notice in found["notices"]:
        out.print(f"note: {notice}")
    out.print(f"Chart: {found['charts'][-1]}", soft_wrap=True)
    if not found["prompt"]:
        out.print("No prompt was worth its cost: the model as it is won, so nothing was kept.")
        return
    commands = [found["command"] + flag, asking(found, flag)]
    show_next(f"Kept as {found['prompt']}. To repeat it, and to use it:", commands)


def _spent_line(spent: dict[str, Any]) -> str:
    money = f", {spent['money']:.2f} in money" if "money" in spent else ""
    return (
        f"Spent: {spent['tokens']:,.0f} live tokens, {seconds_text(spent['seconds'])}{money}; "
        f"{spent['share']:.0%} of the budget of {spent['limit']:,.0f} {spent['unit']}."
    )


def lr_command(
    task: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task file.")],
    low: Annotated[float | None, _lr_help("low")] = None,
    high: Annotated[float | None, _lr_help("high")] = None,
    steps: Annotated[int | None, _lr_help("steps")] = None,
    chart: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the chart as PATH.png, .html and .json.")
    ] = None,
    backbone: BackboneOption = None,
    method: MethodOption = None,
    place: PlaceOption = None,
    length: LengthOption = None,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Find the learning rate: a few dozen steps at growing rates on a prompt that is thrown away."""
    root = store_root(store)
    flags = {"backbone": backbone and local(backbone), "method": method, "place": place, "length": length}

    from overture.cli.progress import display
    from overture.core.config import validated
    from overture.jobs.run.request import TuneConfig, resolved
    from overture.jobs.search.options import LrConfig
    from overture.store.store import Store

    config = validated(LrConfig, stated({"low": low, "high": high, "steps": steps}), "overture lr")
    request = resolved(TuneConfig, task, flags, settings or [])

    from overture.jobs.search.lr import lr

    show = display()
    with show.live():
        found = lr(request, Store(root, say), config, out=chart, listener=show)
    if is_json:
        emit(found)
        return
    _show_rates(found)
    given = [word for key in ("method", "place", "length") if (word := f"--{key} {found[key]}")]
    rate = found["suggested"] or found["default"]
    show_next("Next:", [f"overture tune {shlex.quote(str(task))} {' '.join(given)} --set train.lr={rate:.2g}"])


def _show_rates(found: dict[str, Any]) -> None:
    from rich.table import Table

    out = console()
    table = Table(title=f"{found['task']}, {found['method']}-{found['place']}", title_justify="left")
    for head in ("learning rate", "loss", "smoothed"):
        table.add_column(head, justify="right")
    rows = list(zip(found["rates"], found["losses"], found["smooth"], strict=True))
    for rate, loss, smooth in rows[:: max(1, len(rows) // 16)]:
        table.add_row(f"{rate:.2g}", f"{loss:.3f}", f"{smooth:.3f}")
    out.print(table)
    took = seconds_text(found["seconds"])
    if found["suggested"]:
        out.print(
            f"The loss blew up at {found['blow_up']:.2g}; a tenth of that is suggested: {found['suggested']:.2g}."
        )
    else:
        out.print(f"The loss never blew up, so the test tells nothing: the usual rate stays, {found['default']:.2g}.")
    out.print(f"It fell fastest at {found['steepest']:.2g}, which single batches decide as well ({took}).")
    for path in found["charts"]:
        out.print(f"chart: {path}", soft_wrap=True)
