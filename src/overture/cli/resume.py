"""``overture resume``: go on with a run of any kind."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from overture.cli.hard import show_forms, show_words
from overture.cli.options import Given, JsonOption, StoreOption, run_names, store_root, with_flags
from overture.cli.out import console, emit, loading, say
from overture.cli.report import show_next, show_result
from overture.cli.search import finish_search
from overture.cli.tables import Column, show_table
from overture.cli.tune import WHERE, finish, resume_line, where_of, worked
from overture.core.errors import ConfigError
from overture.core.launch import check_processes


@with_flags(*WHERE)
def resume_command(
    given: Given,
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
    from overture.store.store import Store

    kept = Store(root, say)
    opened = Run.open(kept.runs, run)
    kind = opened.request().kind
    check_processes(kind == "tune", f"resume of a run of kind {kind}")
    where = where_of(given)
    if where.on and kind not in ("tune", "search"):
        raise ConfigError(
            "this run's work is not given to workers",
            where="--on",
            got=f"a run of kind {kind}",
            wanted="seeds of a tuning run, or a search for trained prompts",
            fix="leave --on out",
        )
    if opened.is_finished:
        ended = datetime.fromtimestamp((opened.folder / RESULT).stat().st_mtime, UTC)
        say(f"{opened.name} came to its end already, {ended:%Y-%m-%d %H:%M} UTC; nothing is left to do. Its result:")
    loading()
    if kind == "hard":
        from overture.jobs.wording.search import resume_words

        searched_words = worked(
            lambda listener, stop: resume_words(run, kept, listener, stop, settings=settings or []), store, is_json, run
        )
        finish(searched_words, store, is_json, show_words)
        return
    if kind == "forms":
        from overture.jobs.wording.forms import resume_forms

        compared_forms = worked(
            lambda listener, stop: resume_forms(run, kept, listener, stop, settings=settings or []), store, is_json, run
        )
        finish(compared_forms, store, is_json, show_forms)
        return
    if kind == "search":
        from overture.jobs.search.search import resume_search

        searched = worked(
            lambda listener, stop: resume_search(run, kept, listener, stop, settings=settings or [], where=where),
            store,
            is_json,
            run,
        )
        finish_search(searched, store, is_json)
        return
    from overture.jobs.tune.tune import resume

    result = worked(
        lambda listener, stop: resume(run, kept, listener, stop, settings=settings or [], where=where),
        store,
        is_json,
        run,
    )
    finish(result, store, is_json, show_result)


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
