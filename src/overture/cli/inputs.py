"""Reads the rows to predict from arguments, standard input or a file; each row keeps its place and its problems."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from overture.core.errors import DataError, Problem
from overture.core.media import PLURALS, Modality
from overture.core.records.data import notice_texts
from overture.data.formats.form import UNREADABLE
from overture.data.formats.media_folders import media_files
from overture.data.formats.registry import container_of
from overture.data.media.read import MODALITIES, modality_of
from overture.data.media.read import SUFFIXES as MEDIA_SUFFIXES
from overture.data.read import SUFFIXES, Table, other_options, scan
from overture.data.row import Row
from overture.data.rows import row_problems
from overture.data.task import Task
from overture.data.task_rows import folder_of

_HEAD_BYTES = 1 << 14
Source = Literal["argument", "stdin", "file"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Rows in the order of their source.

    Args:
        source: where they come from.
        rows: all of them; a line that cannot be read has its text, or its cells, as fields.
        problems: what is wrong with a row under every prompt, by the row's index.
        partly: what is wrong with rows under some of the prompts.
        notices: what was assumed or left out.
    """

    source: Source
    rows: list[Row]
    problems: dict[int, list[Problem]] = field(default_factory=dict)
    partly: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def raise_if_bad(self, is_any_too_many: bool) -> None:
        """Refuse the rows if none can be predicted, or, with `is_any_too_many`, if one cannot.

        Raises:
            DataError: names them.
        """
        if (len(self.problems) == len(self.rows)) or (is_any_too_many and (self.problems or self.partly)):
            problems = [problem for index in sorted(self.problems) for problem in self.problems[index]] + self.partly
            raise DataError(
                "rows cannot be predicted",
                problems=problems,
                fix="" if len(self.problems) == len(self.rows) else "correct them, or --on-error skip or null",
            )


def media_of(texts: Sequence[str], tasks: Sequence[Task]) -> Inputs | None:
    """The images or sounds that arguments name, as files or as the folders that hold them; None where they name none.

    Args:
        texts: the arguments.
        tasks: those of the prompts.

    Raises:
        DataError: a folder holds none, or an argument is neither beside others that are.
    """
    kinds = {modality for task in tasks for modality in task.media.values()}
    fields = [name for task in tasks for name in task.media]
    if len(kinds) != 1 or not any(_is_folder(text) or modality_of(text) in kinds for text in texts):
        return None
    (modality,) = kinds
    inputs = Inputs("file", [])
    for text in texts:
        path = Path(os.path.abspath(text))
        if _is_folder(text):
            names = [(str(path), name) for name in media_files(path, modality)]
        elif modality_of(text) == modality:
            # The user names the file, so it may lie anywhere.
            names = [(path.anchor, str(path))]
        else:
            names = []
        if not names:
            raise DataError(f"no {PLURALS[modality]}", where=text, wanted=", ".join(MEDIA_SUFFIXES[modality]))
        rows = [Row(dict.fromkeys(fields, name), 0, str(Path(root) / name), root) for root, name in names]
        inputs.rows.extend(rows)
    return inputs


def file_of(texts: Sequence[str]) -> Path | None:
    """The file among the arguments; None where they are texts. A file that exists is never a text.

    Raises:
        DataError: a file beside other arguments, a folder, or the name of a file that does not exist.
    """
    paths = [text for text in texts if _is_path(text)]
    if not paths:
        return None
    path = Path(paths[0])
    if path.is_dir():
        raise DataError(
            "this is a folder, not a file",
            where=paths[0],
            fix="name a file in it; a text that is the name of a folder can come on standard input",
        )
    if not path.exists():
        raise DataError(
            "no such file", where=paths[0], fix="check the path; a text that looks like one can come on standard input"
        )
    if len(texts) > 1:
        raise DataError(
            "a file cannot be combined with other arguments",
            got=", ".join(texts)[:200],
            fix="predict each file by a command of its own; put texts into a file, or on standard input",
        )
    return path


def _is_folder(text: str) -> bool:
    # A text may hold what no path can, or be longer than any.
    try:
        return "\0" not in text and Path(text).is_dir()
    except OSError:
        return False


def _is_path(text: str) -> bool:
    """Whether an argument names a file or folder that exists, or looks like the name of a data file."""
    if not text or "\n" in text or "\0" in text or len(text) > 4096:
        return False
    try:
        exists = Path(text).exists()
    except OSError:
        return False
    return exists or (not any(map(str.isspace, text)) and text.lower().endswith(SUFFIXES))


def inputs_of(file: Path | None, texts: Sequence[str], tasks: Sequence[Task]) -> Inputs:
    """The rows to predict, with the mistakes that can be seen without a model.

    Args:
        file: a data file; None for texts.
        texts: texts or JSON objects; lines of standard input where there are none, or only ``-``.
        tasks: those of the prompts.

    Raises:
        DataError: the file cannot be read at all, or there are no rows.
    """
    if file:
        inputs = _of_file(file, tasks)
    elif texts and list(texts) != ["-"]:
        inputs = _of_lines("argument", texts, tasks)
    else:
        if sys.stdin.isatty():
            raise DataError("there is nothing to predict", wanted="TEXT arguments, a FILE, or lines on standard input")
        inputs = _of_lines("stdin", _text_lines(sys.stdin.buffer.read(), "stdin"), tasks)
    return with_problems(inputs, tasks)


def inputs_of_arguments(texts: Sequence[str], tasks: Sequence[Task]) -> tuple[Inputs, Path | None]:
    """The rows given as arguments (texts or media files) or in a data file, and that file if there is one.

    Raises:
        DataError: a file is not of what the prompts read; and as `media_of`, `file_of` and `inputs_of`.
    """
    _check_modality(texts, tasks)
    if media := media_of(texts, tasks):
        return with_problems(media, tasks), None
    file = file_of(texts)
    return inputs_of(file, [] if file else texts, tasks), file


def _check_modality(texts: Sequence[str], tasks: Sequence[Task]) -> None:
    """Refuse image and sound files for prompts that read something else.

    Raises:
        DataError: there is one.
    """
    kinds: set[Modality] = {modality for task in tasks for modality in task.media.values()}
    for text in texts:
        modality = modality_of(text)
        if modality and modality not in kinds and _is_path(text):
            names = ", ".join(dict.fromkeys(task.name for task in tasks))
            suffixes = [suffix for kind in MODALITIES if kind in kinds for suffix in MEDIA_SUFFIXES[kind]]
            raise DataError(
                f"{names} reads {' and '.join(PLURALS[kind] for kind in sorted(kinds)) or 'texts'}, "
                f"not {PLURALS[modality]}",
                where=text,
                wanted=", ".join(suffixes or SUFFIXES),
            )


def with_problems(inputs: Inputs, tasks: Sequence[Task]) -> Inputs:
    """Add the problems of each row.

    Raises:
        DataError: there are none.
    """
    if not inputs.rows:
        raise DataError("there is nothing to predict", where=inputs.source, wanted="at least one text")
    for index, row in enumerate(inputs.rows):
        if index in inputs.problems:
            continue
        by_task = [row_problems(task, row, with_answer=False) for task in tasks]
        problems = _without_settings(dict.fromkeys(problem for problems in by_task for problem in problems))
        if all(by_task):
            inputs.problems[index] = problems
        else:
            inputs.partly.extend(problems)
    return inputs


def _of_file(path: Path, tasks: Sequence[Task]) -> Inputs:
    task = tasks[0]
    if path.suffix.lower() == ".txt" and task.data.format is None and os.access(path, os.R_OK):
        raw = path.read_bytes()
        if container_of(path, raw[:_HEAD_BYTES]) is None:
            return _of_lines("file", _text_lines(raw, str(path)), tasks, str(path))
    problems: list[Problem] = []
    table = scan(path, problems, other_options(path, task.data))
    problems = _without_settings(problems)
    lines = {line: problem for problem in problems if (line := _line_of(problem, path)) is not None}
    if len(lines) < len(problems) or _is_cut_off(path, table, lines):
        raise DataError("the data cannot be read", where=str(path), problems=problems)
    root = str(folder_of(str(path)))
    rows = [(Row(fields, line, str(path), root), False) for fields, line in zip(table.rows, table.lines, strict=True)]
    bad_rows = [(Row(dict(table.misfits.get(line, {})), line, str(path)), True) for line in lines]
    rows = sorted([*rows, *bad_rows], key=lambda pair: pair[0].line) if bad_rows else rows
    advice = {"setting": "if that is wrong, save the rows as .jsonl"}
    notices = [notice.model_copy(update=advice) if notice.setting else notice for notice in table.notices]
    by_index = {index: [lines[row.line]] for index, (row, is_bad) in enumerate(rows) if is_bad}
    return Inputs("file", [row for row, _ in rows], by_index, notices=notice_texts(notices))


def _without_settings(problems: Iterable[Problem]) -> list[Problem]:
    """The problems without advice on options of task files, which a command on a file cannot set."""
    return [replace(problem, setting="") for problem in problems]


def _line_of(problem: Problem, path: Path) -> int | None:
    """The line that a problem is about; None where it is about the whole file."""
    file, _, line = problem.where.rpartition(":")
    return int(line) if file == str(path) and line.isdigit() else None


def _is_cut_off(path: Path, table: Table, bad_lines: dict[int, Problem]) -> bool:
    """Whether reading stopped at a bad line, so that rows behind it are lost."""
    if not table.rows:
        return True
    last_bad = max(bad_lines, default=0)
    if last_bad <= max(table.lines):
        return False
    return path.read_bytes().rstrip().count(b"\n") + 1 > last_bad


def _text_lines(raw: bytes, where: str) -> list[str]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("the input is not UTF-8 text", where=where, got=str(error), fix="save it as UTF-8") from None
    # Not splitlines(): it also cuts at characters that JSON strings may hold as they are.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def _of_lines(source: Source, lines: Sequence[str], tasks: Sequence[Task], name: str = "") -> Inputs:
    """Parse lines into rows: each is a JSON object, or a plain text if every template has one field."""
    names = list(dict.fromkeys(name for task in tasks for name in task.columns))
    takes_text = all(len(task.columns) == 1 for task in tasks)
    inputs, name = Inputs(source, []), name or source
    for number, line in enumerate(lines, 1):
        fields = _json_object(line)
        if fields is None and (takes_text or not line.strip()):
            fields = dict.fromkeys(names, line)
        elif fields is None:
            fix = f"wanted a JSON object with {', '.join(names)}"
            problem = Problem(f"{name}:{number}", f"a text, but the template has {len(names)} fields", fix)
            inputs.problems[number - 1] = [problem]
            fields = {UNREADABLE: line}
        inputs.rows.append(Row(fields, number, name, str(Path.cwd())))
    return inputs


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
