"""``overture predict``: what the model says under a stored prompt."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overture.cli.options import DriftOption, JsonOption, PromptArgument, StoreOption, store_root
from overture.cli.out import emit, say
from overture.core.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from overture.core.types import Prediction
    from overture.data import Task
    from overture.evaluate.tuned import TunedPrompt

# Answers are printed as they come; a larger group saves padding.
_ROWS_AT_ONCE = 256

Fields = Mapping[str, Any]


def command(
    prompt: PromptArgument,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...", help="Texts, or JSON objects with the template's fields; - reads lines from stdin."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows from a .jsonl, .csv or .parquet file.")
    ] = None,
    store: StoreOption = None,
    allow_drift: DriftOption = False,
    is_json: JsonOption = False,
) -> None:
    """Print what the model says of each text under a stored prompt, one JSON object a line."""
    if file and texts:
        raise ConfigError("texts and --file exclude each other", fix="leave one of them out")
    root = store_root(store)

    from overture.core.config import validated
    from overture.data import Task
    from overture.store import Store
    from overture.store.artifact import read_manifest

    folder = Store(root, say).get(prompt)
    manifest = read_manifest(folder)
    task = validated(Task, manifest.task, str(folder / "prompt.json"))
    # The rows come first: what is wrong with them is told before the model is loaded.
    rows = _rows_of_file(file) if file else _rows_of_lines(task, _lines(texts or []))

    from overture.evaluate.tuned import TunedPrompt, shown

    tuned = TunedPrompt(folder, allow_drift=allow_drift, notify=say)
    found = predictions(tuned, rows)
    if is_json:
        emit({"prompt": shown(tuned.manifest), "predictions": list(found)})
        return
    for one in found:
        emit(one)


def _lines(texts: Sequence[str]) -> tuple[str, list[str]]:
    """Where the lines are from, and the lines."""
    if texts and list(texts) != ["-"]:
        return "argument", list(texts)
    if not texts and sys.stdin.isatty():
        raise DataError("there is nothing to predict", wanted="TEXT arguments, --file FILE, or lines on standard input")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("standard input is not UTF-8 text", where="stdin", got=str(error)) from None
    # Not splitlines(): it also cuts at characters that JSON strings may hold as they are.
    return "stdin", text.split("\n")


def _rows_of_lines(task: "Task", lines: tuple[str, list[str]]) -> list[Fields]:
    """Each line as fields: a JSON object, or a plain text where the template has one field."""
    where, found = lines
    rows: list[Fields] = []
    problems: list[Problem] = []
    for number, line in enumerate(found, 1):
        row = _json_object(line)
        if row is not None:
            rows.append(row)
        elif not line.strip() and where == "stdin":
            continue
        elif len(task.fields) == 1:
            rows.append({task.fields[0]: line.rstrip("\r")})
        else:
            wanted = f"wanted a JSON object with {', '.join(task.fields)}"
            problems.append(Problem(f"{where}:{number}", f"not a JSON object but {line!r:.60}", wanted))
    if problems:
        raise DataError("the prompt's template has several fields", problems=problems)
    if not rows:
        raise DataError("there is nothing to predict", where=where, wanted="at least one text")
    return rows


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _rows_of_file(path: Path) -> list[Fields]:
    from overture.data.read import read_rows

    return list(read_rows(path)[0])


def predictions(prompt: "TunedPrompt", rows: Sequence[Fields]) -> Iterator[dict[str, Any]]:
    """What the model says of each row, as it is printed."""
    from overture.evaluate.scoring import grouped, predict

    parts = grouped(prompt.encoder.encode_fields(rows))
    for notice in prompt.encoder.notices:
        say(f"note: {notice}")
    model = prompt.model()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        encoded = [one for group in parts[part] for one in group]
        for row, found in zip(rows[part], predict(model, encoded, prompt.task), strict=True):
            yield answer(prompt.task, row, found)


def answer(task: "Task", row: Fields, found: "Prediction") -> dict[str, Any]:
    """A prediction as it is printed: the input, then what the kind of task shows of it."""
    fields = {name: row[name] for name in task.fields}
    given = {"input": fields[task.fields[0]] if len(fields) == 1 else fields}
    return {**given, **task.spec.shown(task, found)}
