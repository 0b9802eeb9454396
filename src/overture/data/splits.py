"""Training, validation and test rows: read, checked as a whole, drawn and sampled by seed."""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from overture.core.errors import ConfigError, DataError, Problem
from overture.core.packages import install
from overture.core.seeds import named_random
from overture.data.read import flattened, scan
from overture.data.rows import Row, missing_field, row_problems, texts_of
from overture.data.task import DataConfig, Task

_NAMES = ("train", "validation", "test")
# Labels named in one notice.
_MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class Splits:
    """A task's rows.

    Args:
        train: rows to learn from.
        validation: rows to choose by.
        test: rows for the final score.
        notices: oddities of the data that are no errors.
        repeats: how many rows of each split look to the model like an earlier training row.
    """

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    notices: list[str] = field(default_factory=list)
    repeats: dict[str, int] = field(default_factory=dict)


def load_splits(task: Task) -> Splits:
    """Read, check, draw and sample a task's rows; the same rows for the same seed.

    Raises:
        DataError: everything that is wrong with files and rows, with line numbers.
        ConfigError: a package that is needed to read the data is not installed.
    """
    problems: list[Problem] = []
    notices: list[str] = []
    read = _from_hub if task.data.dataset else _from_files
    rows_of = read(task.data, problems, notices)
    all_rows = [row for rows in rows_of.values() for row in rows]
    for name in task.spec.optional_fields(task):
        # Rows may lack a field that the task file names, but not all of them.
        if all_rows and not any(name in row.fields for row in all_rows):
            problems.append(missing_field(name, all_rows[0].file, list(all_rows[0].fields)))
    for rows in filter(None, rows_of.values()):
        # A field that no row has is one problem, not one for each row.
        nowhere = [n for n in (*task.columns, *task.target_fields) if not any(n in row.fields for row in rows)]
        problems += [missing_field(name, rows[0].file, list(rows[0].fields)) for name in nowhere]
        problems += [problem for row in rows for problem in row_problems(task, row, skip=nowhere)]
    _raise_any(problems)

    sampled = _sampled(task, _drawn(task, rows_of), notices)
    train = sampled["train"]
    labels = {task.spec.group(task, row) for row in train}
    if not train:
        _raise_any([Problem("train", "no training rows")])
    if len(labels) == 1 and labels != {""}:
        only = f"only one label in the {len(train)} training rows: {labels.pop()!r}"
        _raise_any([Problem(train[0].file, only)])

    splits = Splits(train, sampled["validation"], sampled["test"], notices)
    unseen = [label for label in task.words if label not in labels] if labels != {""} else []
    if unseen:
        more = f" and {len(unseen) - _MAX_NAMED} more" if len(unseen) > _MAX_NAMED else ""
        notices.append(f"no training row has the label {', '.join(map(repr, unseen[:_MAX_NAMED]))}{more}")
    notices += [*_empty_texts(task, splits), *_unreachable_answers(task, splits), *_repeats(task, splits)]
    return splits


def _raise_any(problems: list[Problem]) -> None:
    if problems:
        raise DataError(
            f"the data cannot be used: {len(problems)} {'problem' if len(problems) == 1 else 'problems'}",
            problems=problems,
        )


def _from_files(data: DataConfig, problems: list[Problem], notices: list[str]) -> dict[str, list[Row]]:
    paths: dict[str, Path | None] = {"train": data.train or data.path, "validation": data.validation, "test": data.test}
    rows_of: dict[str, list[Row]] = {}
    for name, path in paths.items():
        if path is not None:
            table = scan(path, problems, data.format)
            notices += table.notices
            rows_of[name] = [Row(fields, line, str(path)) for fields, line in zip(table.rows, table.lines, strict=True)]
    return rows_of


def _from_hub(data: DataConfig, problems: list[Problem], notices: list[str]) -> dict[str, list[Row]]:
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
        hub: Mapping[str, Any] = datasets.load_dataset(data.dataset, data.subset)
    except Exception as error:  # the package raises errors of many other packages
        raise DataError("the data set cannot be loaded", where=str(data.dataset), got=str(error)) from error
    if "train" not in hub:
        raise DataError("the data set has no split 'train'", where=str(data.dataset), got=", ".join(hub))
    rows_of: dict[str, list[Row]] = {}
    for name in (name for name in _NAMES if name in hub):
        records, where = [dict(row) for row in hub[name]], f"{data.dataset}/{name}"
        table = flattened(records, range(1, len(records) + 1), where, problems, data.format)
        notices += table.notices
        rows_of[name] = [Row(fields, line, where) for fields, line in zip(table.rows, table.lines, strict=True)]
    return rows_of


def _drawn(task: Task, rows_of: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The splits, with missing ones drawn from the training rows."""
    rest, splits = rows_of["train"], dict(rows_of)
    shares = {"test": task.data.test_share, "validation": task.data.validation_share}
    for name, share in shares.items():
        if name not in rows_of:
            count = max(1, round(share * len(rows_of["train"]))) if share else 0
            splits[name], rest = _take(task, rest, count, named_random(task.data.seed, "draw", name), keep=1)
    return {**splits, "train": rest}


def _sampled(task: Task, splits: dict[str, list[Row]], notices: list[str]) -> dict[str, list[Row]]:
    sampled = dict(splits)
    for name, rows in splits.items():
        wanted: int | None = getattr(task.data, f"{name}_rows")
        if wanted is not None and wanted > len(rows):
            notices.append(f"{name}_rows is {wanted}, but there are only {len(rows)} rows; all are used")
        if wanted is not None and wanted < len(rows):
            sampled[name], _ = _take(task, rows, wanted, named_random(task.data.seed, "sample", name), keep=0)
        if not rows:
            notices.append(f"{name}: no rows")
    return sampled


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
    taken: set[int] = set()
    for label, members in sorted(groups.items()):
        random.shuffle(members)
        taken.update(members[: quotas[label]])
    return [row for i, row in enumerate(rows) if i in taken], [row for i, row in enumerate(rows) if i not in taken]


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


def _parts(splits: Splits) -> list[tuple[str, list[Row]]]:
    return [("train", splits.train), ("validation", splits.validation), ("test", splits.test)]


def _empty_texts(task: Task, splits: Splits) -> list[str]:
    notices = []
    for name, rows in _parts(splits):
        first: dict[str, Row] = {}
        count: Counter[str] = Counter()
        for row in rows:
            for empty in (n for n, text in texts_of(task, row).items() if not text.strip()):
                first.setdefault(empty, row)
                count[empty] += 1
        notices += [f"{name}: field {n!r} is empty in {count[n]} rows, first {row.where}" for n, row in first.items()]
    return notices


def _unreachable_answers(task: Task, splits: Splits) -> list[str]:
    notices = []
    for name, rows in _parts(splits):
        answers = [(row, task.spec.stopped(task, row)) for row in rows]
        cut = [row for row, text in answers if text is not None and any(stop in text.strip() for stop in task.stop)]
        if cut:
            notices.append(
                f"{name}: {len(cut)} answers hold a text at which generation stops, first {cut[0].where}; change stop"
            )
    return notices


def _repeats(task: Task, splits: Splits) -> list[str]:
    """Notices of rows that look to the model like an earlier training row; counts them in `splits.repeats`."""
    group = task.spec.group
    seen: dict[Hashable, Row] = {}
    notices = []
    for name, rows in _parts(splits):
        repeated = []
        for row in rows:
            key = (*texts_of(task, row).values(), task.spec.beside(task, row))
            if key in seen:
                repeated.append((row, seen[key]))
            elif name == "train":
                seen[key] = row
        splits.repeats[name] = len(repeated)
        if repeated:
            row, earlier = repeated[0]
            what = "an earlier row" if name == "train" else "a training row: the score will be too good"
            notices.append(
                f"{name}: {len(repeated)} of {len(rows)} rows repeat {what}, first {row.where} = {earlier.where}"
            )
        relabelled = [(row, earlier) for row, earlier in repeated if group(task, row) != group(task, earlier)]
        if name == "train" and relabelled:
            first = f"{relabelled[0][0].where} and {relabelled[0][1].where}"
            notices.append(f"train: {len(relabelled)} rows repeat a row with another label, first {first}")
    return notices
