"""A labelling session as a folder of the store: rows, labels, and what was learnt; no torch.

The page writes labels, the learner's process (`jobs.label.process`) what it learnt. Both replace whole files, so each
may die at any moment, and a restart finds everything.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from overture.core.config import validated
from overture.core.errors import DataError, StoreError, UnknownSession
from overture.core.files import exclusive, write_atomic, write_json
from overture.core.records.base import read_record
from overture.core.records.label import CurvePoint, GivenLabels, LabelSession, Learnt
from overture.core.records.scores import Interval
from overture.data.read import read_table
from overture.data.row import Row
from overture.data.rows import row_problems
from overture.data.task import Task
from overture.evaluate.intervals import wilson
from overture.jobs.label.pool import check_labels_of, content_of, is_apart, lot_of, pool_of
from overture.store.artifact import read_manifest
from overture.store.manifest import check_answers
from overture.store.names import checked_name
from overture.store.store import Store

MOST_ROWS = 600
"""Rows of a session: each is read by the model once, and kept in memory."""
_SESSION, _ROWS, _LABELS, _LEARNT = "session.json", "rows.jsonl", "labels.json", "learnt.json"
KEEP = "keep"
"""A file that asks the learner to store its prompt."""


def task_of(store: Store, prompt: str) -> tuple[str, Task]:
    """A stored prompt's name with its version, and its task.

    Raises:
        StoreError: no such prompt.
        ArtifactError: it answers no rows.
        ConfigError: its rows have no labels to give.
    """
    ref = store.pinned(prompt)
    folder = store.get(ref, named_only=True)
    manifest = read_manifest(folder)
    check_answers(manifest)
    task = validated(Task, manifest.task, str(folder / "prompt.json"))
    check_labels_of(task, ref)
    return ref, task


def new_session(store: Store, name: str, prompt: str, source: Path, seed: int = 0) -> "Session":
    """A new session.

    Args:
        store: where it is kept.
        name: of the session.
        prompt: the stored prompt that begins.
        source: the file of rows; labels that it has are taken over.
        seed: of all draws.

    Raises:
        StoreError: the name is wrong or taken, or there is no such prompt.
        DataError: the file cannot be read, or none of its rows can be shown.
    """
    folder = sessions_folder(store) / checked_name(name)
    if folder.exists():
        raise StoreError("there is a labelling session of this name", where=name, fix="open it, or choose another name")
    ref, task = task_of(store, prompt)
    table = read_table(source)
    rows = [Row(fields, line, source.name) for fields, line in zip(table.rows, table.lines, strict=True)]
    problems = [row_problems(task, row, with_answer=False) for row in rows]
    usable = [row for row, faults in zip(rows, problems, strict=True) if not faults]
    pool = pool_of(task, usable, [], 0, seed)
    session_rows = sorted(pool.others, key=lambda row: lot_of(content_of(task, row), seed + 1))[:MOST_ROWS]
    if len(session_rows) < 2:
        raise DataError(
            "there are too few rows to label",
            where=source.name,
            got=f"{len(session_rows)} different rows",
            wanted="2 at least",
            problems=[problem for faults in problems for problem in faults],
        )
    facts = LabelSession(
        prompt=ref, source=source.name, seed=seed, num_rows=len(session_rows), left_out=len(rows) - len(session_rows)
    )
    labels = {
        index: label
        for index, row in enumerate(session_rows)
        if (value := row.fields.get(task.label_field)) not in (None, "") and (label := task.label_named(str(value)))
    }
    lines = "".join(json.dumps(row.fields, ensure_ascii=False, default=str) + "\n" for row in session_rows)
    write_atomic(folder / _ROWS, lines)
    write_json(folder / _LABELS, GivenLabels(labels=labels).dump())
    write_json(folder / _SESSION, facts.dump())
    return Session(store, name)


def sessions_folder(store: Store) -> Path:
    """Where sessions are."""
    return store.root / "labelling"


def session_names(store: Store) -> list[str]:
    """The names of all sessions."""
    return sorted(path.parent.name for path in sessions_folder(store).glob(f"*/{_SESSION}"))


class Session:
    """A labelling session.

    Args:
        store: where it is kept.
        name: of the session.

    Raises:
        StoreError: there is no such session, or its files are damaged.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.folder = sessions_folder(store) / checked_name(name)
        facts = read_record(LabelSession, self.folder / _SESSION)
        if facts is None:
            raise UnknownSession("there is no such labelling session", where=name, fix="/label lists them")
        self.facts = facts
        _, self.task = task_of(store, facts.prompt)
        raw = (self.folder / _ROWS).read_text(encoding="utf-8").splitlines()
        self.rows = [Row(json.loads(line), number, facts.source) for number, line in enumerate(raw, 1)]
        self.apart = frozenset(
            index for index, row in enumerate(self.rows) if is_apart(self.task, row, facts.random_share, facts.seed)
        )

    # -- labels

    def labels(self) -> dict[int, str | None]:
        """The labels that were given, in their order; None for rows that were skipped."""
        record = read_record(GivenLabels, self.folder / _LABELS)
        return record.labels if record else {}

    def give(self, index: int, label: str | None) -> None:
        """Give a row a label, or skip it; it is on the disk when this returns.

        Raises:
            DataError: no such row, or no such label.
        """
        if not 0 <= index < len(self.rows) or (label is not None and label not in self.task.words):
            raise DataError(
                "this is no label for a row of the session",
                got=f"row {index}, label {label!r:.60}",
                wanted=f"rows 0 to {len(self.rows) - 1}; {', '.join(self.task.words)}",
            )
        with self._changing():
            labels = self.labels()
            labels.pop(index, None)
            write_json(self.folder / _LABELS, GivenLabels(labels={**labels, index: label}).dump())

    def take_back(self) -> int | None:
        """Remove the last label and return its row."""
        with self._changing():
            labels = self.labels()
            if not labels:
                return None
            index, _ = labels.popitem()
            write_json(self.folder / _LABELS, GivenLabels(labels=labels).dump())
            return index

    def _changing(self) -> AbstractContextManager[None]:
        """Lock the labels, so that none is lost where two windows label at once."""
        return exclusive(self.folder / "labels.lock", f"the labels of {self.name}", wait_s=5.0)

    def teaching(self) -> dict[int, str]:
        """The labels to learn from."""
        return {index: label for index, label in self.labels().items() if label is not None and index not in self.apart}

    def testing(self) -> dict[int, str]:
        """The labels of the rows that are kept apart."""
        return {index: label for index, label in self.labels().items() if label is not None and index in self.apart}

    def next_row(self) -> int | None:
        """The row to label next; None where all have a label.

        Rows kept apart come in their share, in the order of the rows, which is random; the others as they teach.
        """
        labels, learnt = self.labels(), self.learnt()
        apart = [index for index in sorted(self.apart) if index not in labels]
        queue = [index for index in [*learnt.queue, *range(len(self.rows))] if index not in labels]
        queue = [index for index in queue if index not in self.apart]
        num_apart = len(self.apart) - len(apart)
        is_turn = num_apart < self.facts.random_share * (len(labels) + 1) - 0.5
        if apart and (is_turn or not queue):
            return apart[0]
        return queue[0] if queue else None

    # -- the learner

    def learnt(self) -> Learnt:
        """How far the learner has got."""
        return read_record(Learnt, self.folder / _LEARNT) or Learnt(state="loading")

    def write_learnt(self, learnt: Learnt) -> None:
        """Replace what was learnt."""
        write_json(self.folder / _LEARNT, learnt.dump())

    def curve(self) -> list[CurvePoint]:
        """Accuracy of each training on all rows kept apart that have a label now: the points compare."""
        gold = self.testing()
        points = []
        for training in self.learnt().rounds:
            indices = [index for index in gold if index in training.said]
            if indices:
                right = sum(training.said[index] == gold[index] for index in indices)
                low, high = wilson(right, len(indices))
                score = Interval(value=right / len(indices), low=low, high=high, n=len(indices), method="Wilson")
                points.append(CurvePoint(num_labels=training.num_labels, score=score))
        return points

    # -- files for users

    def labelled_rows(self) -> Iterator[dict[str, Any]]:
        """The rows that have a label, with it, in the order in which they were labelled."""
        for index, label in self.labels().items():
            if label is not None:
                chosen_by = "random" if index in self.apart else "teaches"
                yield {**self.rows[index].fields, self.task.label_field: label, "chosen_by": chosen_by}

    def as_csv(self) -> str:
        """The labelled rows as a table."""
        rows = list(self.labelled_rows())
        columns: Sequence[str] = list(dict.fromkeys([name for row in rows for name in row])) or [self.task.label_field]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([{name: _cell(value) for name, value in row.items()} for row in rows])
        return text.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict | bool) else value
