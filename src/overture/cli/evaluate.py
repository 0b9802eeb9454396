"""``overture eval``: score a stored prompt again."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from overture.cli.mistakes import show_mistakes
from overture.cli.options import (
    CalibratedOption,
    DriftOption,
    JsonOption,
    PromptArgument,
    StoreOption,
    store_flag,
    store_root,
)
from overture.cli.out import console, emit, loading, remark, say, show_text
from overture.cli.pages import show_page
from overture.cli.progress import display
from overture.cli.report import calibration_lines, show_scores, show_verdicts
from overture.cli.wrong import write_errors
from overture.core.errors import ConfigError
from overture.core.records.data import DataNotice, notice_texts
from overture.core.records.events import NoticeEvent, as_notices, as_progress
from overture.core.records.tune import Evaluation


def command(
    prompt: PromptArgument,
    data: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Rows to score instead: .jsonl, .csv or .parquet with the task's fields."),
    ] = None,
    split: Annotated[
        Literal["test", "validation"] | None,
        typer.Option(help="Which rows of the prompt's own run; test rows where there are any.", show_default=False),
    ] = None,
    errors: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write all wrong answers to a .csv, .tsv, .jsonl or .parquet file."),
    ] = None,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace a file of --errors that exists.")] = False,
    calibrated: CalibratedOption = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PAGE", help="Write a page of scores and mistakes, with a picture beside it."
        ),
    ] = None,
    store: StoreOption = None,
    allow_drift: DriftOption = False,
    is_json: JsonOption = False,
) -> None:
    """Score a stored prompt, and its model without one, on the same rows."""
    if output and output.suffix != ".html":
        raise ConfigError(
            "the page is an HTML file", where="--output", got=str(output), wanted="a name that ends in .html"
        )
    if data and split:
        raise ConfigError("FILE and --split exclude each other", fix="leave one of them out")
    root = store_root(store)
    if errors:
        from overture.data.write import check_output

        check_output(errors, is_forced, [data] if data else [])

    from overture.core.config import validated
    from overture.data.task import Task
    from overture.store.artifact import read_manifest
    from overture.store.store import Store

    kept = Store(root, say)
    folder = kept.get(prompt)
    manifest = read_manifest(folder)
    task = validated(Task, manifest.task, str(folder / "prompt.json"))
    if calibrated:
        task.calibrated()

    from overture.data.task_rows import rows_of_file
    from overture.engine.options import check_source
    from overture.evaluate.scored_rows import check_scorable, rows_of_run

    # Whatever can be wrong is looked at before torch is imported.
    check_source(manifest.backbone.id)
    notices: list[DataNotice] = []
    if data:
        name = "data"
        rows, notices = rows_of_file(task, data)
    else:
        name, rows = rows_of_run(kept, manifest, split or "")
    check_scorable(task, rows)
    loading()

    from overture.evaluate.host import Host
    from overture.evaluate.measure import measured

    show = display()
    with show.live():
        host = Host(allow_drift=allow_drift, notify=as_notices(show))
        handle = host.open(folder)
        result, all_wrong = measured(handle, rows, name, as_progress(show), calibrated, notice_texts(notices))
        for text in result.notices:
            show(NoticeEvent(text=text))
    if errors:
        write_errors(errors, all_wrong.wrong)
        remark(f"wrote {errors}: {len(all_wrong.wrong)} of {all_wrong.num_rows} rows")
    page = _written_page(result, folder, output, store_flag(store)) if output else ""
    if is_json:
        emit({**result.dump(), "page": page} if page else result)
    else:
        _show(result, name)
        show_page(page)


def _written_page(result: Evaluation, folder: Path, output: Path, store: str) -> str:
    # Charts take a second to import.
    from overture.jobs.run.pages import write_page_of_evaluation

    return str(write_page_of_evaluation(result, folder, output, store))


def _show(result: Evaluation, split: str) -> None:
    out = console()
    show_scores(out, result, split)
    show_verdicts(out, result)
    for line in calibration_lines(result, split):
        show_text(out, line)
    show_mistakes(out, result, result.metrics[split][result.metric].n, split)
