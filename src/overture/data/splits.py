"""Training, validation and test rows: read, checked as a whole, drawn and sampled by seed."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from overture.core.config import did_you_mean
from overture.core.errors import ConfigError, DataError, Problem
from overture.core.packages import install
from overture.core.records.data import DataNotice, notice_texts
from overture.core.seeds import named_random
from overture.data.formats.options import FileOptions
from overture.data.formats.parquet_table import names_of_features
from overture.data.formats.split_names import split_named
from overture.data.notices import Notices
from overture.data.read import other_options, scan, table_of
from overture.data.row import Row, missing_field
from overture.data.rows import row_problems, texts_of
from overture.data.task import Task
from overture.data.task_rows import (
    is_empty,
    is_unlabelled,
    repeat_key,
    rows_of_table,
    tell_unshown,
    without_dropped_rows,
    without_repeats,
)
from overture.data.values import label_text, normal_spelling

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Splits:
    """A task's rows.

    Args:
        train: rows to learn from.
        validation: rows to choose by.
        test: rows for the final score.
        noticed: oddities of the data that are no errors.
        repeats: how many rows of each split look to the model like an earlier training row.
    """

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    noticed: list[DataNotice] = field(default_factory=list)
    repeats: dict[str, int] = field(default_factory=dict)

    @property
    def notices(self) -> list[str]:
        """The notices as sentences, one for each kind."""
        return notice_texts(self.noticed)


def load_splits(task: Task) -> Splits:
    """Read, check, draw and sample a task's rows; the same rows for the same seed.

    Raises:
        DataError: everything that is wrong with files and rows, with line numbers.
        ConfigError: a package that is needed to read the data is not installed.
    """
    problems: list[Problem] = []
    notices = Notices()
    read_source = _from_hub if task.data.dataset else _from_files
    rows_of = _without_unlabelled_splits(task, read_source(task, problems, notices), notices)
    # First, so that of rows that are repeated those of the task's own splits stay.
    rows_of = without_dropped_rows(task, {"more": _more_rows(task, problems, notices), **rows_of}, notices)
    for rows in rows_of.values():
        problems += _problems_of(task, rows)
    all_rows = [row for rows in rows_of.values() for row in rows]
    for name in task.spec.optional_fields(task):
        # Rows may lack a field that the task file names, but not all of them.
        if all_rows and not any(name in row.fields for row in all_rows):
            problems.append(_missing_everywhere(task, name, all_rows[0]))
    _raise_any(problems, _fix(task, problems, all_rows, notices))

    rows_of = without_repeats(task, rows_of, notices)
    more = rows_of.pop("more")
    all_splits = _drawn(task, rows_of)
    splits = _sampled(task, {**all_splits, "train": all_splits["train"] + more}, notices)
    train = splits["train"]
    labels = {task.spec.group(task, row) for row in train}
    if not train:
        _raise_any([Problem("train", "no training rows")])
    if len(labels) == 1 and labels != {""}:
        only = f"only one label in the training rows: {labels.pop()!r}, rows: {len(train)}"
        fix = f"add rows of other labels, or correct label_field ({task.label_field}) if labels are in another field"
        _raise_any([Problem(train[0].file, only)], fix)
    if labels != {""}:
        _tell_labels(task, splits, notices)
    for row in (row for rows in splits.values() for row in rows):
        _tell_row(task, row, notices)
    repeats = _tell_repeats(task, splits, notices)
    return Splits(train, splits["validation"], splits["test"], notices.records(), repeats)


def _problems_of(task: Task, rows: list[Row]) -> list[Problem]:
    """Problems of the rows of a split; a field that no row has is one problem, not one for each row."""
    nowhere = [n for n in (*task.columns, *task.target_fields) if not any(n in row.fields for row in rows)]
    problems = [_missing_everywhere(task, name, rows[0]) for name in nowhere if rows]
    return problems + [problem for row in rows for problem in row_problems(task, row, skip=nowhere)]


def _missing_everywhere(task: Task, name: str, first: Row) -> Problem:
    """The problem of a field that no row has, with the option that names it."""
    settings = {"label_field": task.label_field, "answer_field": task.answer_field}
    settings |= {f"options.{key}": value for key, value in task.kind_options}
    options = ["template"] if name in task.columns else [key for key, value in settings.items() if value == name]
    return missing_field(name, first.file, list(first.fields), (options or [""])[0])


def _raise_any(problems: list[Problem], fix: str = "") -> None:
    if problems:
        raise DataError(
            f"the data cannot be used: {len(problems)} {'problem' if len(problems) == 1 else 'problems'}",
            problems=problems,
            fix=fix,
        )


def _fix(task: Task, problems: list[Problem], rows: list[Row], notices: Notices) -> str:
    """How to fix the rows: settings that leave some out, or what was assumed of files whose rows all lack a field."""
    bad = {problem.where for problem in problems}
    if any(row.file in bad for row in rows):
        return "; ".join(notice_texts(notice for notice in notices.records() if not notice.count))
    drops = {"empty": is_empty, "unlabelled": is_unlabelled}
    counts = {name: sum(row.where in bad and drop(task, row) for row in rows) for name, drop in drops.items()}
    counts = {name: count for name, count in counts.items() if count}
    counts_text = ", ".join(f"{name} ({count})" for name, count in counts.items())
    fixes = [f"data.drop: [{', '.join(counts)}] leaves these rows out: {counts_text}"] if counts else []
    spellings = [normal_spelling(label) for label in task.words]
    labels = [label_text(row.fields.get(task.label_field)) for row in rows if row.where in bad]
    count = sum(label is not None and normal_spelling(label) in spellings for label in labels)
    if count and len(set(spellings)) == len(spellings):
        fixes.append(f"data.normalise_labels: true ignores case and white space in labels; rows mended: {count}")
    return "; ".join(fixes)


def _from_files(task: Task, problems: list[Problem], notices: Notices) -> dict[str, list[Row]]:
    data = task.data
    paths = {"train": data.train or data.path, "validation": data.validation, "test": data.test}
    source_paths = {name: path for name, path in paths.items() if path is not None}
    options: FileOptions = data
    rows_of: dict[str, list[Row]] = {}
    for name, path in source_paths.items():
        table = scan(path, problems, options)
        if "header" in table.settings:
            # The files of a task have one form: what was seen in one holds for those that follow.
            options = options.model_copy(update={"header": table.settings["header"]})
        notices.extend(table.notices)
        tell_unshown(task, table, notices)
        rows = rows_of_table(task, table, str(path))
        by_split: dict[str, list[Row]] = {}
        for row, split in zip(rows, table.splits or [name] * len(rows), strict=True):
            by_split.setdefault(split, []).append(row)
        for split, members in by_split.items():
            if split == name or (name == "train" and split not in source_paths):
                rows_of[split] = members
            else:
                subject = f"{split} rows in the file for {name}"
                notices.add(subject, path.name, count=len(members), first=members[0].where, done="left out")
        rows_of.setdefault(name, [])
    return {name: rows_of[name] for name in SPLITS if name in rows_of}


def _more_rows(task: Task, problems: list[Problem], notices: Notices) -> list[Row]:
    """The rows of `data.more` that are for training."""
    path = task.data.more
    if path is None:
        return []
    table = scan(path, problems, other_options(path, task.data))
    notices.extend(table.notices)
    rows = rows_of_table(task, table, str(path))
    unlabelled_rows = [row for row in rows if is_unlabelled(task, row)]
    labelled_rows = [row for row in rows if not is_unlabelled(task, row)]
    random_rows = [row for row in labelled_rows if row.fields.get("chosen_by") == "random"]
    for kind, left_out in (
        ("rows without a label", unlabelled_rows),
        ("rows that chance chose, which measure", random_rows),
    ):
        if left_out:
            notices.add(kind, path.name, count=len(left_out), first=left_out[0].where, done="left out")
    return [row for row in labelled_rows if row.fields.get("chosen_by") != "random"]


def _from_hub(task: Task, problems: list[Problem], notices: Notices) -> dict[str, list[Row]]:
    data = task.data
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            "a data set of the Hub needs the datasets package",
            where="data.dataset",
            got=str(data.dataset),
            fix=install("datasets"),
        ) from None
    try:
        # Its bars would be written between the lines of Overture's own.
        datasets.disable_progress_bars()
        hub: Mapping[str, Any] = datasets.load_dataset(data.dataset, data.subset)
    except Exception as error:  # the package raises errors of many other packages
        raise DataError("the data set cannot be loaded", where=str(data.dataset), got=str(error)) from error
    names = {split: name for name in reversed(list(hub)) if (split := split_named(name))}
    names |= {split: split for split in SPLITS if split in hub}
    if "train" not in names:
        raise DataError("the data set has no split 'train'", where=str(data.dataset), got=", ".join(hub))
    rows_of: dict[str, list[Row]] = {}
    for split in (split for split in SPLITS if split in names):
        where = f"{data.dataset}/{names[split]}"
        features = getattr(hub[names[split]], "features", None)
        label_names = names_of_features(features.to_dict()) if features is not None else {}
        table = table_of(map(dict, hub[names[split]]), where, problems, data, label_names)
        notices.extend(table.notices)
        tell_unshown(task, table, notices)
        rows_of[split] = rows_of_table(task, table, where)
    return rows_of


def _without_unlabelled_splits(task: Task, rows_of: dict[str, list[Row]], notices: Notices) -> dict[str, list[Row]]:
    """The splits without validation and test rows that all lack a label, as the Hub's test splits do."""
    labelled_splits = {}
    for name, rows in rows_of.items():
        # A label under nearly the task's name for it is a mistake in that name.
        absent = [field for field in task.target_fields if not any(field in row.fields for row in rows)]
        fields = [field.lower() for field in rows[0].fields] if rows else []
        is_misnamed = any(did_you_mean(field.lower(), fields) for field in absent)
        if name != "train" and rows and not is_misnamed and all(is_unlabelled(task, row) for row in rows):
            done = f"left out: {name} rows are drawn from the training rows"
            notices.add(f"{name} rows without any label", count=len(rows), first=rows[0].where, done=done)
        else:
            labelled_splits[name] = rows
    return labelled_splits


def _drawn(task: Task, rows_of: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The splits, with missing ones drawn from the training rows."""
    train, splits = rows_of["train"], dict(rows_of)
    shares = {"test": task.data.test_share, "validation": task.data.validation_share}
    for name, share in shares.items():
        if name not in rows_of:
            count = max(1, round(share * len(rows_of["train"]))) if share else 0
            splits[name], train = _take(task, train, count, named_random(task.data.seed, "draw", name), keep=1)
    return {**splits, "train": train}


def _sampled(task: Task, splits: dict[str, list[Row]], notices: Notices) -> dict[str, list[Row]]:
    samples = dict(splits)
    for name, rows in splits.items():
        count: int | None = getattr(task.data, f"{name}_rows")
        if count is not None and count > len(rows):
            notices.add(f"fewer rows than data.{name}_rows asks for", f"{len(rows)} of {count}", done="all are used")
        if count is not None and count < len(rows):
            samples[name], _ = _take(task, rows, count, named_random(task.data.seed, "sample", name), keep=0)
        if not rows:
            notices.add("no rows", name)
    return {name: samples[name] for name in SPLITS}


def _take(task: Task, rows: list[Row], count: int, random: Random, keep: int) -> tuple[list[Row], list[Row]]:
    """Draw rows with each label's share kept; both parts stay in file order.

    Args:
        task: tells a row's label.
        rows: the rows to draw from.
        count: how many rows to draw.
        random: shuffles within each label.
        keep: how many rows of each label must be left.
    """
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(task.spec.group(task, row), []).append(i)
    quotas = _quotas({label: len(members) for label, members in groups.items()}, count, keep)
    indices: set[int] = set()
    for label, members in sorted(groups.items()):
        random.shuffle(members)
        indices.update(members[: quotas[label]])
    return [row for i, row in enumerate(rows) if i in indices], [row for i, row in enumerate(rows) if i not in indices]


def _quotas(sizes: dict[str, int], count: int, keep: int) -> dict[str, int]:
    """How many rows of each label to draw: in proportion, and in a sample at least one of each if that is possible."""
    least = 1 if keep == 0 and count >= len(sizes) else 0
    most = {label: max(size - keep, 0) for label, size in sizes.items()}
    ideal = {label: count * size / sum(sizes.values()) for label, size in sizes.items()}
    quotas = {label: min(max(int(ideal[label]), least), most[label]) for label in sorted(sizes)}
    while sum(quotas.values()) < min(count, sum(most.values())):
        label = max((x for x in quotas if quotas[x] < most[x]), key=lambda x: ideal[x] - quotas[x])
        quotas[label] += 1
    while sum(quotas.values()) > count:
        label = min((x for x in quotas if quotas[x] > least), key=lambda x: ideal[x] - quotas[x])
        quotas[label] -= 1
    return quotas


def _tell_labels(task: Task, rows_of: Mapping[str, list[Row]], notices: Notices) -> None:
    """Notice labels that a split has no rows of."""
    missing: dict[str, list[str]] = {}
    for name, rows in rows_of.items():
        labels = {task.spec.group(task, row) for row in rows}
        for label in (label for label in task.words if rows and label not in labels):
            missing.setdefault(label, []).append(name)
    for label, names in missing.items():
        notices.add("labels without a row", f"{label!r} in {' and '.join(names)}")


def _tell_row(task: Task, row: Row, notices: Notices) -> None:
    """Notice corrections of a row, empty texts, and an answer that cannot be written to its end."""
    for correction in task.spec.corrections(task, row):
        notices.add(correction, count=1, first=row.where)
    for name, text in texts_of(task, row).items():
        if not text.strip():
            notices.add("empty text in a field", name, count=1, first=row.where)
    answer = task.spec.stopped(task, row)
    if answer is not None and any(stop in answer.strip() for stop in task.stop):
        kind = "answers that hold a text at which generation stops"
        notices.add(kind, count=1, unit="answer", first=row.where, done="change stop")


def _tell_repeats(task: Task, rows_of: Mapping[str, list[Row]], notices: Notices) -> dict[str, int]:
    """Notice rows that look to the model like an earlier training row; gives how many each split has."""
    group = task.spec.group
    first_rows: dict[Hashable, Row] = {}
    repeats = {}
    for name, rows in rows_of.items():
        repeats[name] = 0
        for row in rows:
            key = repeat_key(task, row)
            earlier = first_rows.get(key)
            if earlier is None:
                if name == "train":
                    first_rows[key] = row
                continue
            repeats[name] += 1
            places = f"{row.where} = {earlier.where}"
            kind = "an earlier row" if name == "train" else "a training row: the score will be too good"
            notices.add(f"rows that repeat {kind}", name, count=1, first=places, done="data.drop: [repeats]")
            if name == "train" and group(task, row) != group(task, earlier):
                notices.add("rows that repeat a row with another label", name, count=1, first=places)
    return repeats
