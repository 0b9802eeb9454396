"""A report of the data behind a first task file."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence

import regex

from overture.core.records.start import DataReport, LabelRows, LeftOut, Lengths
from overture.data.init_media import media_report
from overture.data.kinds.grammar import UNSPACED
from overture.data.languages import languages_of
from overture.data.row import Row
from overture.data.rows import gold_of, row_problems, texts_of
from overture.data.task import Task
from overture.data.task_rows import is_unlabelled, repeat_key

_WORD = regex.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_ALIKE = 0.85
_MAX_LABELS_COMPARED = 200
_MAX_ROWS_READ = 2000


def data_report(
    task: Task,
    rows_of: Mapping[str, Sequence[Row]],
    left_out: Sequence[LeftOut],
    num_tokens: Callable[[Sequence[str]], list[int]] | None = None,
) -> DataReport:
    """A report on the rows, as the task reads them.

    Args:
        task: the task that is to be written.
        rows_of: the rows by split.
        left_out: fields that its template does not show.
        num_tokens: how many tokens texts have for the model; None where its tokenizer is not at hand.
    """
    rows = [row for members in rows_of.values() for row in members]
    readable_of = {
        split: [row for row in members if not row_problems(task, row, with_answer=False)]
        for split, members in rows_of.items()
    }
    readable = [row for members in readable_of.values() for row in members]
    usable = [row for row in readable if not task.spec.problems(task, row)]
    texts = [texts_of(task, row) for row in readable]
    row_texts = [" ".join(fields.values()) for fields in texts]
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
        repeats_of_training=_repeats_of_training(task, readable_of),
        words=None if task.media else _lengths([len(_WORD.findall(text)) for text in row_texts]),
        tokens=_lengths(num_tokens(row_texts)) if num_tokens else None,
        languages={} if task.media else languages_of(row_texts[:: max(len(row_texts) // _MAX_ROWS_READ, 1)]),
        media=media_report(
            task, rows_of, lambda row: "" if task.spec.problems(task, row) else task.spec.group(task, row)
        )
        if task.media
        else None,
    )


def _lengths(counts: Sequence[int]) -> Lengths | None:
    if not counts:
        return None
    rising = sorted(counts)
    return Lengths(median=rising[len(rising) // 2], most_rows=rising[len(rising) * 19 // 20], longest=rising[-1])


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


def _repeats_of_training(task: Task, rows_of: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """How many rows of each other split show what a training row shows; splits without any are left out."""
    training_keys = {repeat_key(task, row) for row in rows_of.get("train", ())}
    counts = {
        split: sum(repeat_key(task, row) in training_keys for row in rows)
        for split, rows in rows_of.items()
        if split != "train"
    }
    return {split: count for split, count in counts.items() if count}


def _repeats(task: Task, rows: Sequence[Row]) -> tuple[int, int]:
    gold_by_key: dict[Hashable, Hashable] = {}
    repeats = contradictions = 0
    for row, gold in zip(rows, gold_of(task, rows), strict=True):
        key = repeat_key(task, row)
        if key in gold_by_key:
            repeats += 1
            contradictions += gold_by_key[key] != gold
        gold_by_key.setdefault(key, gold)
    return repeats, contradictions
