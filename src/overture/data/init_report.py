"""A report of the data behind a first task file."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import regex

from overture.core.records.start import DataReport, LabelRows, LeftOut, Lengths
from overture.data.kinds.grammar import UNSPACED
from overture.data.rows import Row, gold_of, row_problems, texts_of
from overture.data.task import Task
from overture.data.task_rows import is_unlabelled, repeat_key

_WORD = regex.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_ALIKE = 0.85
_MAX_LABELS_COMPARED = 200
_MAX_ROWS_READ = 2000
_LETTERS_READ = 1000


def data_report(task: Task, rows_of: Mapping[str, Sequence[Row]], left_out: Sequence[LeftOut]) -> DataReport:
    """What the rows hold, as the task reads them.

    Args:
        task: the task that is to be written.
        rows_of: the rows by split.
        left_out: fields that its template does not show.
    """
    rows = [row for members in rows_of.values() for row in members]
    shown = [row for row in rows if not row_problems(task, row, with_answer=False)]
    usable = [row for row in shown if not task.spec.problems(task, row)]
    texts = [texts_of(task, row) for row in shown]
    counts = sorted(len(_WORD.findall(" ".join(fields.values()))) for fields in texts)
    repeats, contradictions = _repeats(task, usable)
    return DataReport(
        kind=task.kind,
        rows={split: len(members) for split, members in rows_of.items()},
        target=list(task.target_fields),
        texts=list(task.columns),
        left_out=list(left_out),
        labels=_labels(task, rows_of),
        alike=_alike_labels(list(task.words)),
        empty={name: count for name in task.fields if (count := sum(not fields[name].strip() for fields in texts))},
        unlabelled=sum(is_unlabelled(task, row) for row in rows),
        repeats=repeats,
        contradictions=contradictions,
        words=Lengths(median=counts[len(counts) // 2], most_rows=counts[len(counts) * 19 // 20], longest=counts[-1])
        if counts
        else None,
        scripts=_scripts(texts),
    )


def _labels(task: Task, rows_of: Mapping[str, Sequence[Row]]) -> list[LabelRows]:
    counts: dict[str, Counter[str]] = {label: Counter() for label in task.words}
    for split, rows in rows_of.items():
        for row in rows:
            if row_problems(task, row):
                continue
            (gold,) = gold_of(task, [row])
            for part in gold if isinstance(gold, tuple) else (gold,):
                # Spans are tuples that begin with their label.
                label = part[0] if isinstance(part, tuple) else part
                if label in counts:
                    counts[label][split] += 1
    if task.kind == "regression":
        return []
    return [
        LabelRows(label=label, rows=dict(by_split), also=task.spellings.get(label, []))
        for label, by_split in counts.items()
    ]


def _alike_labels(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Labels whose names are nearly the same, numbers in them aside."""
    pairs = []
    for number, label in enumerate(labels[:_MAX_LABELS_COMPARED]):
        for other in labels[number + 1 : _MAX_LABELS_COMPARED]:
            shortest = min(len(label), len(other))
            is_numbered = re.sub(r"\d", "", label) == re.sub(r"\d", "", other)
            if shortest < 4 or is_numbered or abs(len(label) - len(other)) > 2:
                continue
            if difflib.SequenceMatcher(None, label.lower(), other.lower()).ratio() >= _ALIKE:
                pairs.append((label, other))
    return pairs


def _repeats(task: Task, rows: Sequence[Row]) -> tuple[int, int]:
    seen: dict[Hashable, Hashable] = {}
    repeats = contradictions = 0
    for row, gold in zip(rows, gold_of(task, rows), strict=True):
        key = repeat_key(task, row)
        if key in seen:
            repeats += 1
            contradictions += seen[key] != gold
        seen.setdefault(key, gold)
    return repeats, contradictions


def _scripts(texts: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """The share of letters in each script; only letters beyond ASCII have to be looked up."""
    counts: Counter[str] = Counter()
    for fields in texts[:_MAX_ROWS_READ]:
        for letter, count in Counter(" ".join(fields.values())[:_LETTERS_READ]).items():
            if letter.isalpha():
                name = (
                    "Latin"
                    if letter.isascii()
                    else unicodedata.name(letter, "other").split()[0].split("-")[0].capitalize()
                )
                counts["Chinese" if name == "Cjk" else name] += count
    total = sum(counts.values())
    return {name: round(count / total, 3) for name, count in counts.most_common(6) if count / total >= 0.01}
