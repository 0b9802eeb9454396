"""Fingerprints of a run's rows, so that it never goes on with, or is scored on, other rows than it began with."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from overture.core.errors import DataError, Problem
from overture.core.records.runs import SplitFacts
from overture.data.media.read import modality_of
from overture.data.row import Row
from overture.data.splits import Splits
from overture.data.task import DataConfig

SPLITS = ("train", "validation", "test")


def facts_of(rows: Sequence[Row]) -> SplitFacts:
    """Number and fingerprints of a split's rows; files and line numbers have no part in them."""
    digests = [hashlib.sha256(_text_of(row).encode()).digest() for row in rows]
    return SplitFacts(
        count=len(rows),
        in_order=hashlib.sha256(b"".join(digests)).hexdigest(),
        in_any_order=hashlib.sha256(b"".join(sorted(digests))).hexdigest(),
    )


def _text_of(row: Row) -> str:
    """A row as text; an image or a sound is its content, so that a file that was exchanged is another row."""
    text = json.dumps(row.fields, sort_keys=True, default=repr)
    return "\n".join([text, *row.content])


def facts_of_splits(splits: Splits) -> dict[str, SplitFacts]:
    """The facts of each split."""
    return {name: facts_of(getattr(splits, name)) for name in SPLITS}


def newer_files(rows: Sequence[Row], since: datetime) -> list[str]:
    """The files of rows, and those that their fields name, that were written after a time."""
    named_files = (
        Path(row.root, value)
        for row in rows
        if row.root
        for value in row.fields.values()
        if isinstance(value, str) and modality_of(value)
    )
    files = dict.fromkeys([*(Path(row.file) for row in rows), *named_files])
    # The time has whole seconds: a file that was written in the same one is no newer.
    return [str(file) for file in files if file.is_file() and _written_at(file) >= since.timestamp() + 1]


def _written_at(file: Path) -> float:
    """When a file's content or name changed: a file that was copied may keep the time of its content."""
    return max(file.stat().st_mtime, file.stat().st_ctime)


def check_rows(
    before: Mapping[str, SplitFacts],
    now: Mapping[str, SplitFacts],
    data: DataConfig,
    fix: str,
    newer: Sequence[str] = (),
) -> None:
    """Refuse rows that are not those that a run began with.

    Args:
        before: of each split when the run began; empty in runs of older versions, which recorded nothing.
        now: of the splits that are used now.
        data: says where the rows are.
        fix: what to do.
        newer: files that were written since, which may be the reason.

    Raises:
        DataError: names each split that differs, and how.
    """
    problems = [
        Problem(name, _difference(before[name], facts))
        for name, facts in now.items()
        if name in before and before[name] != facts
    ]
    if problems:
        problems += [Problem(file, "written since the run began") for file in newer]
        sources = [getattr(data, name) for name in ("path", "train", "validation", "test", "dataset")]
        raise DataError(
            "the data has changed since the run began",
            where=", ".join(str(source) for source in sources if source),
            fix=fix,
            problems=problems,
        )


def _difference(before: SplitFacts, now: SplitFacts) -> str:
    if before.count != now.count:
        return f"{now.count} rows now, {before.count} when the run began"
    if before.in_any_order == now.in_any_order:
        return f"the same {now.count} rows in another order"
    return f"other rows among the {now.count}"
