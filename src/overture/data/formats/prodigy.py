"""Prodigy: what annotators accepted, with its spans, its label, or its accepted options.

A rejected row says what its label or spans are not, which teaches nothing: it is left out, as are ignored ones.
"""

from collections.abc import Sequence
from typing import Any

from overture.data.formats.form import Item, Record, Shape, Source
from overture.data.formats.spans import spans_in

_ANSWERS = ("accept", "reject", "ignore")
_MARKS = ("_view_id", "_task_hash", "_input_hash", "_session_id")


def _is_like(record: Record) -> bool:
    has_options = isinstance(record.get("options"), list) and isinstance(record.get("accept"), list)
    return record.get("answer") in _ANSWERS and (has_options or any(name in record for name in _MARKS))


def _read(items: Sequence[Item], source: Source) -> list[Item]:
    rows = []
    has_spans = any(spans_in(item.fields.get("spans")) for item in items)
    for item in items:
        answer = item.fields.get("answer", "accept")
        if answer == "accept":
            rows.append(Item(_row(item.fields, has_spans), item.line, item.split))
        elif answer in _ANSWERS:
            kind = "rejected rows" if answer == "reject" else "ignored rows"
            source.notices.add(kind, count=1, first=source.place(item.line), done="left out: they teach nothing")
        else:
            source.problem(item.line, f"the answer is {answer!r:.40}", f"known: {', '.join(_ANSWERS)}")
    return rows


def _row(record: Record, has_spans: bool) -> Record:
    row: Record = {name: value for name, value in record.items() if name != "answer" and name not in _MARKS}
    choice_ids: Any = record.get("accept")
    if isinstance(choice_ids, list) and isinstance(record.get("options"), list):
        texts = {option.get("id"): option.get("text") for option in record["options"] if isinstance(option, dict)}
        row["label"] = choice_ids
        row["label_texts"] = [texts.get(name, name) for name in choice_ids]
    if has_spans:
        row["spans"] = spans_in(record.get("spans")) or []
    tokens = record.get("tokens")
    if isinstance(tokens, list) and all(
        isinstance(token, dict) and isinstance(token.get("text"), str) for token in tokens
    ):
        row["tokens"] = [token["text"] for token in tokens]
    return row


PRODIGY = Shape("prodigy", "Prodigy", _is_like, _read)
