"""``overture suggest``: rows to label next."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overture.cli.options import (
    DriftOption,
    FlagValues,
    JsonOption,
    StoreOption,
    flag,
    open_store,
    store_flag,
    stored_names,
    with_flags,
)
from overture.cli.out import console, emit, loading, say, show_text
from overture.cli.tables import Column, show_table
from overture.core.config import validated
from overture.core.errors import ConfigError, DataError, StoreError
from overture.jobs.label.options import SuggestOptions

if TYPE_CHECKING:
    from overture.core.records.label import Suggestions
    from overture.data.row import Row
    from overture.data.task import Task
    from overture.jobs.label.suggest import KnownRow
    from overture.store.manifest import Manifest
    from overture.store.store import Store

_CHOSEN_BY, _GUESS, _CONFIDENCE = "chosen_by", "guess", "guess_confidence"


@with_flags(
    flag(SuggestOptions, "count", "-n"),
    flag(SuggestOptions, "random_share"),
    flag(SuggestOptions, "pool"),
    flag(SuggestOptions, "seed"),
)
def command(
    file: Annotated[
        Path, typer.Argument(metavar="ROWS", help="A data file; rows whose label is filled in are not suggested.")
    ],
    prompt: Annotated[
        str,
        typer.Option("--prompt", metavar="PROMPT", help="The prompt that is to learn.", autocompletion=stored_names),
    ],
    flag_values: FlagValues,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="The .csv, .tsv or .jsonl file to fill in, ROWS-to-label.csv if not given; one that exists is "
            "continued: its labels count, and new rows are added.",
        ),
    ] = None,
    store: StoreOption = None,
    allow_drift: DriftOption = False,
    is_json: JsonOption = False,
) -> None:
    """Suggest the rows that teach a prompt most, and write them to a file for labelling."""
    from overture.cli.inputs import inputs_of
    from overture.cli.stored import stored_prompt
    from overture.engine.options import check_source
    from overture.jobs.label.pool import check_labels_of

    options = validated(SuggestOptions, flag_values.of(SuggestOptions), "overture suggest")
    prompt_store = open_store(store)
    folder, manifest, task = stored_prompt(prompt_store, prompt)
    check_labels_of(task, manifest.ref)
    output = output or file.with_name(f"{file.stem}-to-label.csv")
    earlier_rows = _earlier_rows(output, file, task)
    check_source(manifest.backbone.id)
    inputs = inputs_of(file, [], [task])
    for notice in inputs.notices:
        say(f"note: {notice}")
    if inputs.problems:
        say(f"note: {len(inputs.problems)} of {len(inputs.rows)} rows cannot be shown to the prompt and are left out")
    rows = [row for index, row in enumerate(inputs.rows) if index not in inputs.problems]
    labelled, rows = [row for row in rows if _has_label(task, row)], [row for row in rows if not _has_label(task, row)]
    known_rows = _known_rows(task, earlier_rows, labelled)

    loading()
    from overture.cli.progress import display
    from overture.core.records.events import as_notices, as_progress
    from overture.evaluate.host import Host
    from overture.jobs.label.suggest import suggest

    show = display()
    with show.live():
        handle = Host(allow_drift=allow_drift, notify=as_notices(show)).open(folder)
        result = suggest(handle, rows, known_rows, options, as_progress(show))
    result = result.model_copy(update={"output": str(output)})
    _write(output, result, earlier_rows)
    if is_json:
        emit(result)
    else:
        flag = store_flag(store)
        _show(
            result,
            f"overture suggest {shlex.quote(str(file))} --prompt {prompt}{flag}",
            _training(prompt_store, manifest),
            flag,
        )


def _training(store: "Store", manifest: "Manifest") -> str:
    """The command that tunes on the rows of the run and on those of a file, up to the file's name."""
    from overture.store.runs import run_of

    try:
        file = shlex.quote(run_of(store, manifest, "").request().file)
    except StoreError:
        file = "TASK.yaml"
    return f"overture tune {file} --set data.more="


def _has_label(task: "Task", row: "Row") -> bool:
    return row.fields.get(task.label_field) not in (None, "")


def _earlier_rows(output: Path, file: Path, task: "Task") -> "list[Row]":
    """The rows of an earlier suggestion that is continued.

    Raises:
        ConfigError: the output is another file, or the rows themselves.
        DataError: its labels are not the task's.
    """
    from overture.cli.inputs import inputs_of
    from overture.data.rows import row_problems
    from overture.data.write import check_output

    if not output.exists() or (file.exists() and output.samefile(file)):
        check_output(output, False, [file])
        return []
    rows = inputs_of(output, [], [task]).rows
    if not all(_CHOSEN_BY in row.fields for row in rows):
        raise ConfigError(
            "the file exists and was not written by overture suggest",
            where=str(output),
            wanted=f"a column {_CHOSEN_BY}",
            fix="name another with -o",
        )
    problems = [problem for row in rows if _has_label(task, row) for problem in row_problems(task, row)]
    if problems:
        raise DataError("labels that were filled in are not the task's", where=str(output), problems=problems)
    return rows


def _known_rows(task: "Task", earlier_rows: "Sequence[Row]", labelled: "Sequence[Row]") -> "list[KnownRow]":
    from overture.jobs.label.pool import RANDOM
    from overture.jobs.label.suggest import KnownRow

    suggested = [KnownRow(row, _has_label(task, row), row.fields[_CHOSEN_BY] == RANDOM) for row in earlier_rows]
    return [*suggested, *(KnownRow(row, True) for row in labelled)]


def _write(output: Path, result: "Suggestions", earlier_rows: "Sequence[Row]") -> None:
    from overture.data.write import written_rows

    suggested_rows: list[dict[str, Any]] = [
        {
            **suggestion.fields,
            result.label_field: "",
            _CHOSEN_BY: suggestion.chosen_by,
            _GUESS: suggestion.guess,
            _CONFIDENCE: suggestion.confidence,
        }
        for suggestion in result.suggested
    ]
    rows = [*(row.fields for row in earlier_rows), *suggested_rows]
    columns = dict.fromkeys([name for row in rows for name in row], "any")
    with written_rows(output, columns, rows) as sink:  # type: ignore[arg-type]
        sink.write(rows)


def _show(result: "Suggestions", suggest_command: str, training: str, flag: str) -> None:
    from overture.cli.report import show_next

    out = console()
    texts = [" ".join(str(value) for value in suggestion.fields.values())[:80] for suggestion in result.suggested]
    show_table(
        out,
        [
            Column("row", texts, is_left=True, is_prose=True),
            Column("guess", [suggestion.guess for suggestion in result.suggested], is_left=True),
            Column("sure", [f"{suggestion.confidence:.2f}" for suggestion in result.suggested]),
            Column("chosen by", [suggestion.chosen_by for suggestion in result.suggested], is_left=True),
        ],
        f"{len(result.suggested)} rows to label for {result.prompt}",
    )
    for notice in result.notices:
        say(f"note: {notice}")
    counts = (
        f"{result.num_labelled} rows are labelled, {result.num_waiting} wait for a label, {result.num_left} are left."
    )
    if result.score:
        counts += (
            f" {result.prompt} is right in {result.score.text} of the {result.score.n} labelled rows that chance chose."
        )
    show_text(out, counts)
    output = shlex.quote(str(result.output))
    show_next(
        f"Fill in {result.label_field!r} in {result.output}. Next:",
        [
            f"{suggest_command} -o {output}",
            f"{training}{output}{flag}",
        ],
    )
