"""``overture meta``: learn a start on several tasks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import FlagValues, JsonOption, SetOption, StoreOption, flag, open_store, with_flags
from overture.cli.out import console, loading, show_notes, show_text
from overture.cli.progress import stoppable
from overture.cli.report import sentence, show_next, tune_from, verdict_style
from overture.cli.tables import Column, show_table
from overture.cli.tune import BACKBONE, LENGTH, METHOD, PLACE, print_result
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.transfer.options import MetaConfig

if TYPE_CHECKING:
    from rich.console import Console

    from overture.core.records.transfer import MetaResult


@with_flags(*(flag(MetaConfig, name) for name in MetaConfig.model_fields), BACKBONE, METHOD, PLACE, LENGTH)
def command(
    tasks: Annotated[list[Path], typer.Argument(metavar="TASK.yaml", help="The tasks to learn from, two at least.")],
    flag_values: FlagValues,
    unseen: Annotated[
        list[Path] | None, typer.Option(metavar="TASK.yaml", help="A task to measure the start on only. Repeatable.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The name under which the start is kept; the first task's name and -meta if not given."),
    ] = None,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Learn starting values from which a few steps on a new task suffice; Ctrl-C keeps what was learned."""
    from overture.core.config import validated
    from overture.core.files import check_writable
    from overture.jobs.run.early import check_early
    from overture.jobs.transfer.agree import agreed_to_learn

    config = validated(MetaConfig, flag_values.of(MetaConfig), "overture meta")
    requests = [
        resolved(TuneConfig, path, flag_values.of(TuneConfig), settings or []) for path in (*tasks, *(unseen or []))
    ]
    prompt_store, name = open_store(store), name or f"{requests[0].task.name}-meta"
    training_requests, unseen_requests = requests[: len(tasks)], requests[len(tasks) :]
    agreed_to_learn(training_requests, unseen_requests, prompt_store, name)
    for request in requests:
        check_early(request, prompt_store)
    check_writable(prompt_store.root)
    loading()

    from overture.jobs.transfer.meta import meta

    with stoppable(after="visit") as (show, stop):
        result = meta(
            training_requests, prompt_store, name, config, unseen=unseen_requests, listener=show, is_stop_asked=stop
        )
    print_result(result, store, is_json, _show)


def _show(result: "MetaResult", flag: str) -> None:
    out = console()
    if result.status == "interrupted":
        show_text(
            out, f"stopped after {result.steps} visits" + ("; what was learned is stored" if result.prompt else "")
        )
    if result.few_steps:
        _show_few_steps(out, result)
        for task in result.few_steps:
            text = sentence("the ordinary start", task.compared, "learned start")
            show_text(out, f"{task.task}: {text}", style=verdict_style(task.compared))
        if not any(task.is_unseen for task in result.few_steps):
            show_text(out, "note: the start was learned on these tasks; --unseen TASK.yaml measures it on another")
    show_notes(out, result.notices)
    if result.prompt:
        start = result.start
        command = tune_from(result.prompt, start.method, result.place, result.length, start.options, flag)
        show_next(f"Stored as {result.prompt}. Start a task from it:", [command])


def _show_few_steps(out: "Console", result: "MetaResult") -> None:
    steps = "1 step" if result.inner == 1 else f"{result.inner} steps"
    tasks = result.few_steps
    columns = [
        Column("task", [f"{task.task} (unseen)" if task.is_unseen else task.task for task in tasks], is_left=True),
        Column("score", [task.metric for task in tasks], is_left=True),
        Column("from the ordinary start", [f"{task.compared.b:.3f}" for task in tasks]),
        Column("from the learned start", [f"{task.compared.a:.3f}" for task in tasks]),
        Column("rows", [str(task.compared.difference.n) for task in tasks], rank=1),
    ]
    show_table(out, columns, f"after {steps}, on validation rows")
