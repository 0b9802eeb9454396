"""``overture eval``: score a stored prompt again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from overture.cli.mistakes import show_mistakes
from overture.cli.options import (
    DOUBT_FLAGS,
    CalibratedOption,
    DriftOption,
    FlagValues,
    JsonOption,
    PromptArgument,
    StoreOption,
    open_store,
    store_flag,
    with_flags,
)
from overture.cli.out import console, emit, loading, remark, show_text
from overture.cli.pages import show_page
from overture.cli.progress import live_display
from overture.cli.report import calibration_lines, show_scores, show_verdicts
from overture.cli.wrong import write_errors
from overture.core.errors import ConfigError
from overture.core.files import check_writable
from overture.core.records.data import DataNotice, notice_texts
from overture.core.records.events import NoticeEvent, as_notices, as_progress
from overture.core.records.tune import Evaluation

if TYPE_CHECKING:
    from overture.core.records.shares import KeptShares
    from overture.data.row import Row
    from overture.data.task import Task
    from overture.store.manifest import Manifest
    from overture.store.store import Store


@with_flags(*DOUBT_FLAGS)
def command(
    flag_values: FlagValues,
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
    keeps_shares: Annotated[
        bool,
        typer.Option(
            "--keep-shares",
            help="Store the prompt again, as its next version, with what it says of these rows: --coverage and "
            "--abstain then go by them.",
        ),
    ] = False,
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
    _check_flags(output, data, split, keeps_shares)
    if errors:
        from overture.data.write import check_output

        check_output(errors, is_forced, [data] if data else [])

    from overture.cli.stored import stored_prompt
    from overture.core.config import validated
    from overture.core.records.shares import Doubt
    from overture.evaluate.doubt import certainty_of, check_doubt

    prompt_store = open_store(store)
    folder, manifest, task = stored_prompt(prompt_store, prompt)
    if calibrated:
        task.calibrated()
    doubt = validated(Doubt, flag_values.of(Doubt), "overture eval")
    if keeps_shares:
        check_doubt(task, manifest.ref)
    certainty = certainty_of(manifest, task, doubt)

    from overture.engine.options import check_source

    # Whatever can be wrong is looked at before torch is imported.
    check_source(manifest.backbone.id)
    name, rows, notices = _rows(prompt_store, manifest, task, data, split)
    if certainty and name == certainty.shares.source:
        raise ConfigError(
            "thresholds are computed from the validation rows, so they cannot be checked on these rows",
            where="--split",
            got="validation",
            wanted="other rows",
            fix="leave --split out for test rows, or name a FILE",
        )
    loading()

    from overture.evaluate.host import Host
    from overture.evaluate.measure import measured

    with live_display() as show:
        host = Host(allow_drift=allow_drift, notify=as_notices(show))
        handle = host.open(folder)
        result, all_wrong, shares = measured(
            handle, rows, name, as_progress(show), calibrated, notice_texts(notices), certainty
        )
        if keeps_shares and shares:
            shares = shares.model_copy(update={"source": "file" if data else "validation"})
            result = result.model_copy(update={"kept_as": _store_again(prompt_store, folder, shares)})
        for text in result.notices:
            show(NoticeEvent(text=text))
    if result.kept_as:
        remark(f"kept the label shares of {len(rows)} rows with {result.kept_as}, the same prompt")
    if errors:
        write_errors(errors, all_wrong.wrong)
        remark(f"wrote {errors}: {len(all_wrong.wrong)} of {all_wrong.num_rows} rows")
    page = _written_page(result, folder, output, store_flag(store)) if output else ""
    if is_json:
        emit({**result.dump(), "page": page} if page else result)
    else:
        _show(result, name)
        show_page(page)


def _check_flags(output: Path | None, data: Path | None, split: str | None, keeps_shares: bool) -> None:
    if output and output.suffix != ".html":
        raise ConfigError(
            "the page is an HTML file", where="--output", got=str(output), wanted="a name that ends in .html"
        )
    if output:
        check_writable(output.parent)
    if data and split:
        raise ConfigError("FILE and --split exclude each other", fix="leave one of them out")
    if keeps_shares and not data and split != "validation":
        raise ConfigError(
            "label shares must come from other rows than the test rows",
            where="--keep-shares",
            fix="name a FILE of other rows, or --split validation",
        )


def _rows(
    store: "Store", manifest: "Manifest", task: "Task", data: Path | None, split: str | None
) -> tuple[str, "list[Row]", list[DataNotice]]:
    """The name of the rows, the rows, and notices about the file that they were read from."""
    from overture.data.task_rows import rows_of_file
    from overture.evaluate.scored_rows import check_scorable, rows_of_run

    notices: list[DataNotice] = []
    if data:
        name = "data"
        rows, notices = rows_of_file(task, data)
    else:
        name, rows = rows_of_run(store, manifest, split or "")
    check_scorable(task, rows)
    return name, rows, notices


def _store_again(store: "Store", folder: Path, shares: "KeptShares") -> str:
    """The version that holds the same prompt with these label shares."""
    from overture.store.artifact import load_artifact
    from overture.store.names import ref_of

    manifest, tensors = load_artifact(folder)
    return str(ref_of(store.add(manifest.model_copy(update={"shares": shares}), tensors)))


def _written_page(result: Evaluation, folder: Path, output: Path, store: str) -> str:
    # Charts take a second to import.
    from overture.jobs.run.pages import write_page_of_evaluation

    return str(write_page_of_evaluation(result, folder, output, store))


def _show(result: Evaluation, split: str) -> None:
    from overture.report.certainty import certainty_lines

    out = console()
    show_scores(out, result, split)
    show_verdicts(out, result)
    for line in calibration_lines(result, split):
        show_text(out, line)
    for line in certainty_lines(result):
        show_text(out, line)
    show_mistakes(out, result, result.metrics[split][result.metric].n, split)
