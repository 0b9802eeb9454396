"""``overture multi``: one prompt for several tasks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import FlagValues, JsonOption, SetOption, StoreOption, flag, open_store, with_flags
from overture.cli.out import console, loading, show_notes, show_text
from overture.cli.progress import stoppable
from overture.cli.report import predict_line, sentence, show_next, verdict_style
from overture.cli.tables import Column, show_table
from overture.cli.tune import BACKBONE, LENGTH, PLACE, print_result
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.transfer.options import MultiConfig

if TYPE_CHECKING:
    from rich.console import Console

    from overture.core.records.transfer import MultiResult, TaskTogether


@with_flags(
    *(flag(MultiConfig, name) for name in MultiConfig.model_fields),
    BACKBONE,
    flag(TuneConfig, "prompt.method", default="mpt"),
    PLACE,
    LENGTH,
)
def command(
    tasks: Annotated[list[Path], typer.Argument(metavar="TASK.yaml", help="The tasks, two at least.")],
    flag_values: FlagValues,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROMPT", help="A task's own stored prompt, in the order of the tasks; tuned if none is given."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="The shared prompt is kept as NAME, each task's as NAME-TASK; the first task's name and -multi if "
            "not given."
        ),
    ] = None,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Train prompts for several tasks that share values, beside one for each alone.

    Methods: mpt (a shared prompt, scaled by each task) and attempt (shared attention over stored prompts).
    Ctrl-C keeps what is finished; the run itself cannot be resumed, but --teacher takes the prompts tuned alone.
    """
    from overture.core.config import validated
    from overture.core.files import check_writable
    from overture.jobs.run.early import check_early
    from overture.jobs.transfer.agree import agreed_to_share

    config = validated(MultiConfig, flag_values.of(MultiConfig), "overture multi")
    requests = [resolved(TuneConfig, path, flag_values.of(TuneConfig), settings or []) for path in tasks]
    prompt_store, name = open_store(store), name or f"{requests[0].task.name}-multi"
    agreed_to_share(requests, prompt_store, name, teacher or [])
    for request in requests:
        check_early(request, prompt_store)
    check_writable(prompt_store.root)
    loading()

    from overture.jobs.transfer.multi import multi

    with stoppable() as (show, stop):
        result = multi(requests, prompt_store, name, config, teachers=teacher or [], listener=show, is_stop_asked=stop)
    print_result(result, store, is_json, _show)


def _show(result: "MultiResult", flag: str) -> None:
    from overture.core.records.transfer import TaskTogether

    out = console()
    together = [task for task in result.tasks if isinstance(task, TaskTogether)]
    if result.status == "interrupted":
        stored_refs = [task.single.prompt for task in result.tasks if task.single]
        show_text(out, "stopped" + (f"; stored: {', '.join(stored_refs)}" if stored_refs else ""))
    if result.values:
        _show_scores(out, result, together)
        show_text(
            out,
            f"values: {result.values.alone:,} for all tasks alone, {result.values.together:,} together, "
            f"{result.values.shared:,} of them shared",
        )
        for task in together:
            text = sentence("the prompt tuned alone", task.compared, "multi-task prompt")
            show_text(out, f"{task.task}: {text}", style=verdict_style(task.compared))
    show_notes(out, result.notices)
    if result.prompt:
        way = f"--method {result.method} --place {result.place} --length {result.length}"
        start = f"{way} --set prompt.options.source={result.prompt}"
        show_next(
            f"Shared prompt kept as {result.prompt}. Start a task from it:",
            [f"overture tune TASK.yaml {start}{flag}"],
        )
    if together:
        show_next("Next:", [predict_line(task.multi.prompt, str(task.multi.folder), flag) for task in together])


def _show_scores(out: "Console", result: "MultiResult", together: "list[TaskTogether]") -> None:
    columns = [
        Column("task", [task.task for task in together], is_left=True),
        Column("score", [task.metric for task in together], is_left=True),
        Column("rows", [f"{task.compared.difference.n} {task.split}" for task in together], rank=2, is_left=True),
        Column("alone", [f"{task.compared.b:.3f}" for task in together]),
        Column("together", [f"{task.compared.a:.3f}" for task in together]),
        Column("values alone", [f"{task.single.trainable:,}" for task in together], rank=1),
        Column("own values together", [f"{task.own_values:,}" for task in together], rank=1),
    ]
    show_table(out, columns, f"{result.method} at {result.place}, {len(together)} tasks")
