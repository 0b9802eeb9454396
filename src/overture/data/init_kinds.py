"""Kinds of tasks that are detected by the fields of the rows: tagging, qa, choice, multilabel, chat."""

from collections.abc import Callable
from typing import Any

from overture.core.errors import DataError
from overture.data.formats.form import Records
from overture.data.kinds.tags import split_tag
from overture.data.task import Task
from overture.data.values import label_text

Values = dict[str, Any]
_MAX_LABELS = 50
WRITES_NOTHING = "an encoder writes no answers, and has none to choose from"
CHOOSE_DECODER = "choose a decoder with --backbone"


def values_of_kind(rows: Records) -> Values | None:
    """The keys of a task file for such rows, from `kind` on; None where they hold plain labels or answers."""
    guesses = (guess(rows) for guess in (_tagging, _qa, _choice, _multilabel, _chat))
    return next((values for values in guesses if values), None)


def values_for_encoder(values: Values, where: str) -> Values:
    """The keys for an encoder, which answers by label vectors, so that the template ends with the text.

    Raises:
        DataError: the kind's answers are written.
    """
    task = Task.model_validate({"name": "task", "data": {"path": where}, **values})
    if not task.spec.for_encoders(task):
        raise DataError(WRITES_NOTHING, where=where, got=f"a task of kind {values['kind']}", fix=CHOOSE_DECODER)
    template = values["template"]
    values = {**values, "template": template[: template.rindex("}") + 1]}
    return {key: value for key, value in values.items() if key != "max_new_tokens"}


def _all(rows: Records, name: str, fits: Callable[[Any], bool]) -> bool:
    return all(name in row and fits(row[name]) for row in rows)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_texts_or_columns(value: Any) -> bool:
    return _is_texts(value) or (isinstance(value, dict) and "text" in value)


def _tagging(rows: Records) -> Values | None:
    if not (_all(rows, "tokens", _is_texts) and _all(rows, "tags", _is_texts)):
        return None
    try:
        types = sorted({name for row in rows for tag in row["tags"] if (name := split_tag(tag)[1])})
    except ValueError:
        return None
    longest = max(sum(map(len, row["tokens"])) for row in rows)
    if not types:
        return None
    return {
        "kind": "tagging",
        "template": "{tokens}\nEntities:",
        "labels": {name: f" {name.lower()}" for name in types},
        "max_new_tokens": min(128, 1 << max(5, (longest // 4).bit_length())),
    }


def _qa(rows: Records) -> Values | None:
    if not (_all(rows, "context", _is_text) and _all(rows, "question", _is_text)):
        return None
    if not _all(rows, "answers", _is_texts_or_columns):
        return None
    answers = [row["answers"]["text"] if isinstance(row["answers"], dict) else row["answers"] for row in rows]
    options: Values = {}
    if all("answer_starts" in row for row in rows):
        options["starts_field"] = "answer_starts"
    if not all(answers):
        options["no_answer"] = "no answer"
    if any(text not in row["context"] for row, texts in zip(rows, answers, strict=True) for text in texts):
        options.pop("starts_field", None)
        options["mode"] = "generative"
    return {
        "kind": "qa",
        "template": "{context}\nQuestion: {question}\nAnswer:",
        "answer_field": "answers",
        **({"options": options} if options else {}),
    }


def _choice(rows: Records) -> Values | None:
    if not _all(rows, "choices", _is_texts_or_columns):
        return None
    label = next((name for name in ("label", "answer", "answerKey", "gold") if all(name in row for row in rows)), None)
    names = ("question", "text", "context", "premise", "goal")
    text = next((name for name in names if _all(rows, name, _is_text)), None)
    if label is None or text is None:
        return None
    return {"kind": "choice", "template": f"{{{text}}}\nAnswer:", "label_field": label}


def _multilabel(rows: Records) -> Values | None:
    fields = [name for name in ("labels", "label", "classes", "categories", "tags") if _all(rows, name, _is_texts)]
    texts = [name for name in ("text", "sentence", "document", "comment") if _all(rows, name, _is_text)]
    if not fields or not texts:
        return None
    labels = sorted({label_text(label) or "" for row in rows for label in row[fields[0]]})
    if not 2 <= len(labels) <= _MAX_LABELS:
        return None
    return {
        "kind": "multilabel",
        "template": f"{{{texts[0]}}}\nLabels:",
        "label_field": fields[0],
        "labels": {label: " " + label.lower().replace("_", " ") for label in labels},
        "max_new_tokens": 64,
    }


def _chat(rows: Records) -> Values | None:
    """Conversations of several turns; those of one question and one answer also have the field `user`."""
    has_messages = _all(rows, "messages", lambda value: isinstance(value, list) and bool(value))
    if not has_messages or all("user" in row for row in rows):
        return None
    return {"kind": "chat", "template": "{messages}", "max_new_tokens": 256, "stop": []}
