"""A table's rows as a task reads them: labels by name, and those that `data.drop` names left out."""

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from overture.core.errors import DataError, Problem
from overture.core.media import Media
from overture.core.records.data import DataNotice
from overture.data.notices import Notices
from overture.data.read import Table, other_options, scan, table_of
from overture.data.row import Row
from overture.data.rows import content_of, texts_of
from overture.data.task import Task
from overture.data.values import is_blank, is_missing_word, label_text

_CONTEXT = {"system": "system texts", "history": "earlier turns", "tools": "descriptions of tools"}
_CHATS = ("messages", "sharegpt", "alpaca")
_NUM_READERS = 4


def rows_of_table(task: Task, table: Table, file: str, is_own: bool = True) -> list[Row]:
    """The rows of a table; the task's own label is a number again if the task names none of the labels' names.

    Args:
        task: says what rows hold.
        table: the rows.
        file: the table's file.
        is_own: whether it is one of the task's own files, whose images and sounds may lie in `data.root`.
    """
    root = task.data.root if is_own else None
    has_names = any(task.label_named(name) for name in table.names.get(task.label_field, ()))
    rows = table.rows if has_names else table.numbered(task.label_field)
    files = table.files or [file] * len(rows)
    triples = zip(rows, table.lines, files, strict=True)
    if not task.media:
        return [Row(fields, line, name) for fields, line, name in triples]
    bare = [Row(fields, line, name, str(root or folder_of(name))) for fields, line, name in triples]
    # Decoders release Python's lock, so several files are read at a time.
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        contents = list(readers.map(partial(content_of, task), bare))
    return [
        replace(row, content=tuple(media.digest for media in content.values() if isinstance(media, Media)))
        for row, content in zip(bare, contents, strict=True)
    ]


def folder_of(file: str) -> Path:
    """The folder in which files that rows name lie: that of their own file, or the folder that is read as one."""
    return Path(file) if Path(file).is_dir() else Path(file).parent


def rows_of_file(task: Task, path: Path) -> tuple[list[Row], list[DataNotice]]:
    """The rows of a file that is none of the task's own, such as one to be scored, and what was noticed in it.

    Raises:
        DataError: every line that cannot be read.
    """
    problems: list[Problem] = []
    table = scan(path, problems, other_options(path, task.data))
    if problems:
        raise DataError("the data cannot be read", where=str(path), problems=problems)
    return _rows_and_notices(task, table, path.name, str(path))


def rows_in_memory(task: Task, rows: Any) -> tuple[list[Row], list[DataNotice]]:
    """As `rows_of_file`, of a list of mappings or a DataFrame.

    Raises:
        DataError: every row that cannot be read.
    """
    return _rows_and_notices(task, table_of(rows), "rows", "rows")


def _rows_and_notices(task: Task, table: Table, name: str, file: str) -> tuple[list[Row], list[DataNotice]]:
    notices = Notices(table.notices)
    rows = without_dropped_rows(task, {name: rows_of_table(task, table, file, is_own=False)}, notices)
    return rows[name], notices.records()


def is_empty(task: Task, row: Row) -> bool:
    """Whether none of the template's fields holds any text."""
    return all(is_blank(row.fields.get(name)) for name in task.columns)


def is_unlabelled(task: Task, row: Row) -> bool:
    """Whether a row has no label or answer: none, an empty one, or -1, NaN or N/A where that is no answer."""
    values = [row.fields.get(name) for name in task.target_fields]
    return any(map(_is_missing, values)) and bool(task.spec.problems(task, row))


def _is_missing(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_missing, value))
    return is_blank(value) or label_text(value) == "-1" or is_missing_word(value)


def without_dropped_rows(task: Task, rows_of: Mapping[str, list[Row]], notices: Notices) -> dict[str, list[Row]]:
    """The rows of each split without empty and unlabelled ones, if `data.drop` says so; they are counted."""
    split_rows = dict(rows_of)
    for drop_name, drops in (("empty", is_empty), ("unlabelled", is_unlabelled)):
        if drop_name in task.data.drop:
            for split, rows in split_rows.items():
                dropped_rows = [row for row in rows if drops(task, row)]
                split_rows[split] = [row for row in rows if not drops(task, row)]
                _tell(f"{drop_name} rows", dropped_rows, notices)
    return split_rows


def without_repeats(task: Task, rows_of: Mapping[str, list[Row]], notices: Notices) -> dict[str, list[Row]]:
    """The rows of each split without those that show what another row shows, if `data.drop` says so.

    The first stays, a test row before a validation row before a training row, so that what the task is scored on
    remains whole. The rows must have passed `row_problems`.
    """
    if "repeats" not in task.data.drop:
        return dict(rows_of)
    split_rows = dict(rows_of)
    keys: set[Hashable] = set()
    for split in reversed(split_rows):
        firsts: list[Row] = []
        repeats: list[Row] = []
        for row in split_rows[split]:
            key = repeat_key(task, row)
            (repeats if key in keys else firsts).append(row)
            keys.add(key)
        _tell("repeated rows", repeats, notices)
        split_rows[split] = firsts
    return split_rows


def _tell(kind: str, rows: Sequence[Row], notices: Notices) -> None:
    if rows:
        file, first = PurePath(rows[0].file).name, rows[0].where
        notices.add(kind, file, count=len(rows), first=first, done="left out by data.drop")


def repeat_key(task: Task, row: Row) -> Hashable:
    """The part of a row that the model sees: of an image or a sound its content, whatever its file is called."""
    content = {name: getattr(media, "digest", "") for name, media in content_of(task, row).items()}
    return (*(texts_of(task, row) | content).values(), task.spec.beside(task, row))


def tell_unshown(task: Task, table: Table, notices: Notices) -> None:
    """Notice what conversations hold beside their messages if the template does not show it."""
    if table.format not in _CHATS:
        return
    template = task.template if isinstance(task.template, str) else "".join(part.content for part in task.template)
    constant = template.replace("{{", "{").replace("}}", "}")
    for name, title in _CONTEXT.items():
        is_shown = name in task.columns or (name != "tools" and "messages" in task.columns)
        rows = [] if is_shown else [row for row in table.rows if not is_blank(row.get(name))]
        unshown = [row for row in rows if not (isinstance(row[name], str) and row[name] in constant)]
        if unshown:
            done = f"the template does not show {name!r}"
            notices.add(f"{title} that the model does not see", count=len(unshown), done=done)
