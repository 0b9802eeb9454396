"""``overture errors``: the rows that a stored prompt answers wrongly."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overture.cli.options import JsonOption, PromptArgument, StoreOption, open_store, store_flag
from overture.cli.out import emit, remark
from overture.core.errors import StoreError

if TYPE_CHECKING:
    from overture.core.records.scores import WrongRow
    from overture.data.write import ColumnType

_COLUMNS: "dict[str, ColumnType]" = {
    "where": "text",
    "right": "text",
    "predicted": "text",
    "confidence": "number",
    "score": "number",
    "text": "text",
    "missed": "text",
    "made_up": "text",
}


def errors_command(
    prompt: PromptArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="Write all to a .csv, .tsv, .jsonl or .parquet file."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many are printed.")] = 20,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace an output file that exists.")] = False,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Show the test rows that a prompt's run answered wrongly.

    The worst come first, of equally bad ones the most confident. No model is loaded; `overture eval PROMPT FILE
    --errors OUT` scores other rows.
    """
    from overture.core.records.scores import WrongRows
    from overture.data.write import check_output
    from overture.store.artifact import read_manifest
    from overture.store.runs import WRONG_ROWS, run_of

    if output:
        check_output(output, is_forced)
    prompt_store = open_store(store)
    manifest = read_manifest(prompt_store.get(prompt))
    eval_command = f"overture eval {prompt}{store_flag(store)} --errors OUT.csv"
    run = run_of(prompt_store, manifest, f"score it on rows of a file: overture eval {prompt} FILE --errors OUT.csv")
    wrong_rows = run.read(WRONG_ROWS, WrongRows)
    if wrong_rows is None:
        raise StoreError("the run kept no wrong answers", where=str(run.folder), fix=eval_command)
    if output:
        write_errors(output, wrong_rows.wrong)
        remark(f"wrote {output}: {len(wrong_rows.wrong)} of {wrong_rows.num_rows} {wrong_rows.split} rows")
    if is_json:
        emit(wrong_rows)
    elif not output:
        from overture.cli.mistakes import wrong_lines
        from overture.cli.out import console, show_text

        out = console()
        show_text(
            out, f"{manifest.ref}: {len(wrong_rows.wrong)} of {wrong_rows.num_rows} {wrong_rows.split} rows are wrong."
        )
        if wrong_rows.wrong:
            show_text(out, "right -> predicted, the worst and most confident first:")
        for line in wrong_lines(wrong_rows.wrong, out.width, limit):
            out.print(line, soft_wrap=True)
        if len(wrong_rows.wrong) > limit:
            show_text(out, f"  ... and {len(wrong_rows.wrong) - limit} more: --limit N, or -o errors.csv")


def write_errors(path: Path, wrong_rows: "Sequence[WrongRow]") -> None:
    """Write wrong answers to a table, or as JSON lines.

    Raises:
        DiskFull: no room; what was under the name before is intact.
    """
    from overture.data.write import written_rows

    rows: list[dict[str, Any]] = []
    for row in wrong_rows:
        values = row.model_dump() | {"missed": "; ".join(row.missed), "made_up": "; ".join(row.made_up)}
        values["right"] = values.pop("gold")
        rows.append({name: values[name] for name in _COLUMNS})
    with written_rows(path, _COLUMNS) as sink:
        sink.write(rows)
