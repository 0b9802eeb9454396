"""``overture resume``: go on with a run of any kind."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overture.cli.hard import show_forms, show_words
from overture.cli.options import FlagValues, JsonOption, StoreOption, open_store, run_names, store_root, with_flags
from overture.cli.out import console, emit, loading, say
from overture.cli.report import show_next, show_result
from overture.cli.search import show_search
from overture.cli.tables import Column, show_table
from overture.cli.tune import WHERE, finish, result_of, resume_line, where_of
from overture.core.errors import ConfigError
from overture.core.launch import check_processes

if TYPE_CHECKING:
    from overture.core.records.runs import RunKind
    from overture.store.runs import Run


@with_flags(*WHERE)
def resume_command(
    flag_values: FlagValues,
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="The run; without it, those that can go on.", autocompletion=run_names),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Where a data file lies now, such as data.train=rows.jsonl; or tensor_parallel and shard, for other "
            "processes than those that began. Repeatable.",
        ),
    ] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Go on with a run that was stopped, as if it had never stopped."""
    root = store_root(store)
    if run is None:
        _list_runs(root, store, is_json)
        return

    from overture.store.runs import RESULT, Run

    prompt_store = open_store(store)
    opened = Run.open(prompt_store.runs, run)
    kind = opened.request().kind
    check_processes(kind == "tune", f"resume of a run of kind {kind}")
    where = where_of(flag_values)
    if where.on and kind not in ("tune", "search"):
        raise ConfigError(
            "a run of this kind cannot use workers",
            where="--on",
            got=f"a run of kind {kind}",
            wanted="seeds of a tuning run, or a search for trained prompts",
            fix="leave --on out",
        )
    if opened.is_finished:
        ended = datetime.fromtimestamp((opened.folder / RESULT).stat().st_mtime, UTC)
        say(f"{opened.name} came to its end already, {ended:%Y-%m-%d %H:%M} UTC; nothing is left to do. Its result:")
        _show_finished(opened, kind, store, is_json)
        return
    loading()
    go_on, show = _work_of(kind)
    places = {"where": where} if kind in ("tune", "search") else {}
    result = result_of(
        lambda listener, stop: go_on(run, prompt_store, listener, stop, settings=settings or [], **places),
        store,
        is_json,
        run,
    )
    finish(result, store, is_json, show)


def _show_finished(run: "Run", kind: "RunKind", store: Path | None, is_json: bool) -> None:
    """Print the result of a finished run from its folder; the packages that its work needs are not imported."""
    from overture.core.records.hard import FormsResult, HardResult
    from overture.core.records.search import SearchResult
    from overture.core.records.tune import TuneResult
    from overture.store.runs import RESULT

    records: dict[RunKind, tuple[Any, Any]] = {
        "tune": (TuneResult, show_result),
        "search": (SearchResult, show_search),
        "hard": (HardResult, show_words),
        "forms": (FormsResult, show_forms),
    }
    record, show = records[kind]
    finish(run.read(RESULT, record), store, is_json, show)


def _work_of(kind: "RunKind") -> tuple[Callable[..., Any], Callable[[Any, str], None]]:
    """The function that resumes a run of a kind, and the one that prints its result."""
    if kind == "hard":
        from overture.jobs.wording.search import resume_words

        return resume_words, show_words
    if kind == "forms":
        from overture.jobs.wording.forms import resume_forms

        return resume_forms, show_forms
    if kind == "search":
        from overture.jobs.search.search import resume_search

        return resume_search, show_search
    from overture.jobs.tune.tune import resume

    return resume, show_result


def _list_runs(root: Path, store: Path | None, is_json: bool) -> None:
    from overture.store.runs import unfinished_runs

    runs = unfinished_runs(root / "runs")
    if is_json:
        emit({"runs": [run.dump() for run in runs]})
        return
    if not runs:
        console().print("there are no runs to go on with")
        return
    columns = [
        Column("run", [run.run for run in runs], is_left=True),
        Column("state", [run.state for run in runs], is_left=True),
        Column("started", [run.started[:16].replace("T", " ") for run in runs], rank=1, is_left=True),
        Column("why it ended", [run.why for run in runs], rank=2, is_left=True, is_prose=True),
    ]
    show_table(console(), columns)
    show_next("Go on with one:", [resume_line(runs[-1].run, store)])
