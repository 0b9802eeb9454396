"""Parts shared by kinds with labels: the label field, its checks, labels at the place that is read."""

import difflib
from collections.abc import Sequence
from typing import Any

from overture.core.contracts import TextTokenizer
from overture.core.errors import ConfigError, DataError, Problem
from overture.core.rows import Prediction
from overture.data.kind import TaskFile
from overture.data.row import Row, missing_field
from overture.data.values import kind, label_text

_DIGITS = 6


def check_labels(task: TaskFile, least: int = 2) -> None:
    """Labels must be named, and their words must hold something.

    Raises:
        ConfigError: they are not, or do not.
    """
    if task.labels is None or task.answer_field is not None:
        raise ConfigError("exactly one of labels and answer_field must be given", where="labels")
    if len(task.labels) < least:
        raise ConfigError(f"labels must name at least {'two labels' if least == 2 else 'one label'}", where="labels")
    for label, words in task.words.items():
        if not all(word.strip() for word in words):
            raise ConfigError("a label word must not be blank", where=f"labels.{label}")


def check_words_differ(task: TaskFile, only_first: bool = False) -> None:
    """No word may stand for two labels, nor twice for one.

    Args:
        task: names the labels.
        only_first: whether the other words of a label are not read.

    Raises:
        ConfigError: one does.
    """
    label_of: dict[str, str] = {}
    pairs = [(label, word) for label, words in task.words.items() for word in (words[:1] if only_first else words)]
    for label, word in pairs:
        if word in label_of:
            raise ConfigError(
                "the word stands for a label already",
                where=f"labels.{label}",
                got=word,
                fix=f"each word must tell its label: {word!r} is one of {label_of[word]!r}",
            )
        label_of[word] = label


def label_fields(task: TaskFile) -> tuple[str, ...]:
    """The label field alone."""
    return (task.label_field,)


def label_problems(task: TaskFile, row: Row) -> list[Problem]:
    """Problems of a row's single label."""
    if task.label_field not in row.fields:
        return [missing_field(task.label_field, row.where, list(row.fields))]
    return unknown_label(task, row.fields[task.label_field], row.where)


def label_of_value(task: TaskFile, value: Any) -> str | None:
    """The label that a value names, by any of its spellings; a list may hold the one label."""
    text = label_text(value[0] if isinstance(value, list) and len(value) == 1 else value)
    return None if text is None else task.label_named(text)


def unknown_label(task: TaskFile, value: Any, where: str) -> list[Problem]:
    """The problem of a value that names no label."""
    if label_of_value(task, value) is not None:
        return []
    label = label_text(value)
    if label is None:
        return [Problem(where, f"the label is {kind(value)}", "wanted text or a number")]
    near = difflib.get_close_matches(label, task.words, 1)
    return [
        Problem(
            where,
            f"unknown label {label!r}",
            f"did you mean {near[0]!r}?" if near else f"known: {', '.join(task.words)}",
        )
    ]


def row_label(task: TaskFile, row: Row) -> str:
    """The row's label; the row must have passed `label_problems`."""
    return label_of_value(task, row.fields[task.label_field]) or ""


def respelled(task: TaskFile, values: Sequence[Any]) -> tuple[str, ...]:
    """The correction of labels that are spelled otherwise than in the task file; none where all are as there."""
    is_other = any(label_text(value) not in (None, label_of_value(task, value)) for value in values)
    return ("labels are spelled otherwise than in the task file",) if is_other else ()


def first_word(task: TaskFile, row: Row) -> str | None:
    """The first word of the row's label."""
    return task.words[row_label(task, row)][0]


def shares_shown(prediction: Prediction) -> dict[str, Any]:
    """The probability of the label that was chosen, and the probabilities of all, where there are any."""
    fields: dict[str, Any] = {}
    if prediction.confidence is not None:
        fields["confidence"] = round(prediction.confidence, _DIGITS)
    if (probabilities := prediction.probabilities) is not None:
        fields["probabilities"] = {label: round(share, _DIGITS) for label, share in probabilities.items()}
    if prediction.label_set is not None:
        fields["set"] = list(prediction.label_set)
    if prediction.is_withheld is not None:
        fields["abstained"] = prediction.is_withheld
    return fields


def label_shown(task: TaskFile, prediction: Prediction) -> dict[str, Any]:
    """The label, if it is not withheld, with all probabilities."""
    del task
    return {"label": None if prediction.is_withheld else prediction.text, **shares_shown(prediction)}


def check_places(task: TaskFile, tokenizer: TextTokenizer) -> None:
    """Masks, and places to read, are for encoders.

    Raises:
        DataError: the task asks a decoder for them, or an encoder that has none.
    """
    writes = "behind its start" if tokenizer.start_ids else "where its text ends"
    if task.read and not tokenizer.is_encoder:
        raise DataError(
            f"a decoder's label is read {writes}",
            where="read",
            got=task.read,
            fix="leave read out, or choose an encoder as --backbone",
        )
    if task.has_mask and not tokenizer.is_encoder:
        raise DataError(
            f"{{mask}} is for encoders; a decoder predicts the label's word {writes}",
            where="template",
            fix=("leave it out" if tokenizer.start_ids else "end the template where the word belongs")
            + ", or choose an encoder as --backbone",
        )
    if task.has_mask and not tokenizer.mask_ids:
        raise DataError(
            "the backbone's tokenizer has no mask",
            where="template",
            fix="leave {mask} out: labels get vectors then; or choose a masked language model as --backbone",
        )


def written_alike(task: TaskFile, none: str) -> None:
    """Labels that are written must be told apart by their first words, and from the word for none of them.

    Raises:
        DataError: two are the same.
    """
    words = [texts[0].strip() for texts in task.words.values()]
    if len(set(words)) < len(words) or none in words:
        raise DataError("two labels are written alike", where="labels", got=", ".join(words))


def lead(task: TaskFile) -> str:
    """The text between a row and its answer: a space, unless the template ends with one."""
    return " " if isinstance(task.template, str) and not task.template[-1].isspace() else ""


def no_mask(task: TaskFile) -> None:
    """Masks and places to read mean nothing to a kind that reads no label at one place.

    Raises:
        ConfigError: the task file has them.
    """
    if task.has_mask or task.read:
        raise ConfigError("{mask} and read are for tasks with labels", where="template" if task.has_mask else "read")
