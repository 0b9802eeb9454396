"""``overture predict``: what the model says under a stored prompt."""

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
    from overture.evaluate.tuned import TunedPrompt

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
    """Print what the model says of each text under a stored prompt, or several, one JSON object a line."""
    refs, words, file = _asked(prompt, texts or [], prompts or [], file)
    root = store_root(store)

    from overture.core.config import validated
    from overture.data.task import Task
    from overture.store.artifact import read_manifest
    from overture.store.store import Store

    folders = [Store(root, say).get(ref) for ref in refs]
    tasks = [validated(Task, read_manifest(folder).task, str(folder / "prompt.json")) for folder in folders]
    if calibrated:
        tasks = [task.calibrated() for task in tasks]
    # The rows come first: what is wrong with them is told before the model is loaded.
    rows = _rows_of_file(file, tasks) if file else _rows_of_lines(tasks, _lines(words))

    from overture.evaluate.tuned import TunedPrompt, shown

    first = TunedPrompt(folders[0], allow_drift=allow_drift, notify=say)
    tuned = [first, *(TunedPrompt(folder, first.backbone, allow_drift) for folder in folders[1:])]
    tuned = [one.calibrated() for one in tuned] if calibrated else tuned
    names = [shown(one.manifest) for one in tuned]
    if prompts:
        found = predictions_together(dict(zip(refs, tuned, strict=True)), rows)
        head: dict[str, Any] = {"prompts": dict(zip(refs, names, strict=True))}
    else:
        found, head = predictions(tuned[0], rows), {"prompt": names[0]}
    if is_json:
        emit({**head, "predictions": list(found)})
        return
    for one in found:
        emit(one)


def _asked(
    prompt: str | None, texts: list[str], prompts: list[str], file: Path | None
) -> tuple[list[str], list[str], Path | None]:
    """Prompts, texts and the rows' file: behind ``--prompt`` arguments are texts, or one is a file."""
    if prompts:
        texts = [*([] if prompt is None else [prompt]), *texts]
        if not file and len(texts) == 1 and os.path.isfile(texts[0]):
            file, texts = Path(texts[0]), []
    elif prompt is None:
        raise ConfigError("no prompt is named", fix="overture predict PROMPT TEXT, or --prompt A --prompt B TEXT")
    if file and texts:
        raise ConfigError("texts and --file exclude each other", fix="leave one of them out")
    refs = prompts or [str(prompt)]
    twice = sorted({ref for ref in refs if refs.count(ref) > 1})
    if twice:
        raise ConfigError("a prompt is named twice", where="--prompt", got=", ".join(twice), fix="name each once")
    return refs, texts, file


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


def _rows_of_lines(tasks: Sequence["Task"], lines: tuple[str, list[str]]) -> list[Fields]:
    """Each line as fields: a JSON object, or a plain text where every template has one field."""
    where, found = lines
    names = list(dict.fromkeys(name for task in tasks for name in task.columns))
    rows: list[Fields] = []
    problems: list[Problem] = []
    for number, line in enumerate(found, 1):
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
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _rows_of_file(path: Path, tasks: Sequence["Task"]) -> list[Fields]:
    from overture.data.read import read_rows_like

    return list(read_rows_like(path, tasks[0].data.format)[0])


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


def predictions_together(prompts: Mapping[str, "TunedPrompt"], rows: Sequence[Fields]) -> Iterator[dict[str, Any]]:
    """What the model says of each row under each prompt, as it is printed: a field for each, by the name given."""
    from overture.evaluate.tuned import predict_together

    for prompt in prompts.values():
        # Every row under every prompt is looked at before the first answer.
        prompt.encoder.encode_fields(rows)
    for notice in dict.fromkeys(notice for prompt in prompts.values() for notice in prompt.encoder.notices):
        say(f"note: {notice}")
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        each = zip(*predict_together(list(prompts.values()), part), strict=True)
        for row, found in zip(part, each, strict=True):
            shown = [answer(prompt.task, row, one) for prompt, one in zip(prompts.values(), found, strict=True)]
            given = [one.pop("input") for one in shown]
            # Templates of different fields have different inputs.
            first = given[0] if all(one == given[0] for one in given) else dict(row)
            yield {"input": first, "prompts": dict(zip(prompts, shown, strict=True))}


def answer(task: "Task", row: Fields, found: "Prediction") -> dict[str, Any]:
    """A prediction as it is printed: the input, then what the kind of task shows of it."""
    fields = {name: row[name] for name in task.columns}
    given = {"input": fields[task.columns[0]] if len(fields) == 1 else fields}
    return {**given, **task.spec.shown(task, found)}
