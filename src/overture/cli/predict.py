"""``overture predict``: predictions for rows under stored prompts."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overture.cli.options import CalibratedOption, DriftOption, JsonOption, StoreOption, store_root
from overture.cli.out import emit, say
from overture.core.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from overture.core.rows import Prediction
    from overture.data.task import Task
    from overture.evaluate.host import Handle

# Answers are printed as they come; a larger group saves padding.
_ROWS_AT_ONCE = 256

Fields = Mapping[str, Any]


def command(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="A prompt: its name, name@version, or its folder. With --prompt the first text."
        ),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...", help="Texts, or JSON objects with the template's fields; - reads lines from stdin."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows from a .jsonl, .csv or .parquet file.")
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", metavar="PROMPT", help="Repeat it: several prompts answer the same rows; arguments are texts."
        ),
    ] = None,
    calibrated: CalibratedOption = False,
    store: StoreOption = None,
    allow_drift: DriftOption = False,
    is_json: JsonOption = False,
) -> None:
    """Print the predictions for texts under a stored prompt, or several, one JSON object a line."""
    # Behind --prompt all arguments are texts, or a single one is a file.
    texts = texts or []
    if prompts:
        texts = [*([] if prompt is None else [prompt]), *texts]
        if not file and len(texts) == 1 and os.path.isfile(texts[0]):
            file, texts = Path(texts[0]), []
    elif prompt is None:
        raise ConfigError("no prompt is named", fix="overture predict PROMPT TEXT, or --prompt A --prompt B TEXT")
    if file and texts:
        raise ConfigError("texts and --file exclude each other", fix="leave one of them out")
    refs = prompts or [str(prompt)]
    repeated = sorted({ref for ref in refs if refs.count(ref) > 1})
    if repeated:
        raise ConfigError("a prompt is named twice", where="--prompt", got=", ".join(repeated), fix="name each once")
    root = store_root(store)

    from overture.core.config import validated
    from overture.data.read import table_like
    from overture.data.task import Task
    from overture.store.artifact import read_manifest
    from overture.store.store import Store

    folders = [Store(root, say).get(ref) for ref in refs]
    tasks = [validated(Task, read_manifest(folder).task, str(folder / "prompt.json")) for folder in folders]
    if calibrated:
        tasks = [task.calibrated() for task in tasks]
    # Rows are read before the model is loaded, so that their mistakes are reported at once.
    rows: Sequence[Fields]
    rows = table_like(file, tasks[0].data).rows if file else _rows_of_lines(tasks, *_lines(texts))

    from overture.evaluate.host import Host

    host = Host(allow_drift=allow_drift, notify=say)
    handles = [host.open(folder) for folder in folders]
    if calibrated:
        handles = [handle.calibrated() for handle in handles]
    names = [handle.manifest.ref for handle in handles]
    lines: Iterator[dict[str, Any]]
    if prompts:
        head: dict[str, Any] = {"prompts": dict(zip(refs, names, strict=True))}
        lines = _side_by_side(refs, rows, predictions(handles, rows))
    else:
        head = {"prompt": names[0]}
        lines = (shown[0] for shown in predictions(handles, rows))
    if is_json:
        emit({**head, "predictions": list(lines)})
        return
    for line in lines:
        emit(line)


def predictions(handles: Sequence["Handle"], rows: Sequence[Fields]) -> Iterator[list[dict[str, Any]]]:
    """For each row, in order, what is printed of its prediction under each prompt.

    Args:
        handles: prompts of one host.
        rows: the template's fields.

    Raises:
        DataError: every row that cannot be encoded, before the first prediction.
    """
    from overture.evaluate.host import Ask, raise_problems

    host, num_prompts = handles[0].host, len(handles)
    encoded = host.encoded([Ask(handle, row, number) for number, row in enumerate(rows, 1) for handle in handles])
    raise_problems(encoded)
    for notice in dict.fromkeys(notice for handle in handles for notice in handle.encoder.notices):
        say(f"note: {notice}")
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chunk = rows[start : start + _ROWS_AT_ONCE]
        replies = iter(host.answer_encoded(encoded[start * num_prompts : (start + len(chunk)) * num_prompts]))
        for row in chunk:
            yield [_shown(handle.task, row, next(replies).result()) for handle in handles]


def _shown(task: "Task", row: Fields, prediction: "Prediction") -> dict[str, Any]:
    fields = {name: row[name] for name in task.columns}
    shown_input = fields[task.columns[0]] if len(fields) == 1 else fields
    return {"input": shown_input, **task.spec.shown(task, prediction)}


def _side_by_side(
    refs: Sequence[str], rows: Sequence[Fields], lines: Iterator[list[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """The predictions of a row under several prompts as one object, with its input once."""
    for row, shown in zip(rows, lines, strict=True):
        inputs = [line.pop("input") for line in shown]
        # Templates of different fields have different inputs.
        same = inputs[0] if all(shown_input == inputs[0] for shown_input in inputs) else dict(row)
        yield {"input": same, "prompts": dict(zip(refs, shown, strict=True))}


def _lines(texts: Sequence[str]) -> tuple[str, list[str]]:
    """The source of the lines, and the lines."""
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


def _rows_of_lines(tasks: Sequence["Task"], where: str, lines: Sequence[str]) -> list[Fields]:
    """Each line as fields: a JSON object, or a plain text where every template has one field."""
    names = list(dict.fromkeys(name for task in tasks for name in task.columns))
    rows: list[Fields] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        row = _json_object(line)
        if row is not None:
            rows.append(row)
        elif not line.strip() and where == "stdin":
            continue
        elif all(len(task.columns) == 1 for task in tasks):
            rows.append(dict.fromkeys(names, line.rstrip("\r")))
        else:
            wanted = f"wanted a JSON object with {', '.join(names)}"
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
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
