"""Label Studio: its JSON export (`data` and `annotations`), and JSON-MIN, in which spans stand under a tag's name.

Rows have the task's own fields, and for each tag of the labelling interface a field of its name: spans, a choice, or a
list of choices. The first annotation counts; tasks without one, or with a cancelled one, are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from overture.data.formats.form import Item, Record, Shape, Source
from overture.data.formats.spans import spans_in, with_spans
from overture.data.values import kind

_SPANS = ("labels", "hypertextlabels")
_VALUES = {"choices": "choices", "textarea": "text", "rating": "rating", "number": "number", "taxonomy": "taxonomy"}


def _is_like(record: Record) -> bool:
    return _is_whole(record) or ("annotation_id" in record and "lead_time" in record)


def _is_whole(record: Record) -> bool:
    marks = record.get("annotations", record.get("completions"))
    return isinstance(record.get("data"), dict) and isinstance(marks, list)


def _read(items: Sequence[Item], source: Source) -> list[Item]:
    rows = []
    for item in items:
        row = _row(item, source) if _is_whole(item.fields) else _with_spans(item.fields)
        if row is not None:
            rows.append(Item(row, item.line, item.split))
    # The export leaves out the field of a text without spans: such a text has an empty list.
    names = {name for item in rows for name, value in item.fields.items() if spans_in(value)}
    for item in rows:
        item.fields.update({name: [] for name in names if item.fields.get(name) is None})
    return rows


def _with_spans(record: Record) -> Record:
    """A row of JSON-MIN with its spans in one form."""
    row = dict(record)
    for name, value in record.items():
        spans = spans_in(value)
        if spans:
            row = with_spans(row, name, spans)
        elif isinstance(value, dict) and isinstance(value.get("choices"), list):
            row[name] = value["choices"]
    return row


def _row(item: Item, source: Source) -> Record | None:
    record, place = item.fields, source.place(item.line)
    marks = record.get("annotations", record.get("completions"))
    assert isinstance(marks, list)
    annotations = [mark for mark in marks if isinstance(mark, Mapping) and not mark.get("was_cancelled")]
    if not annotations:
        source.notices.add("tasks without an annotation", count=1, first=place, done="left out")
        return None
    if len(annotations) > 1:
        source.notices.add("tasks with several annotations", count=1, first=place, done="the first one counts")
    fields: Record = {"id": record["id"]} if "id" in record and "id" not in record["data"] else {}
    return _with_results(fields | record["data"], annotations[0].get("result"), item.line, source)


def _with_results(row: Record, results: Any, line: int, source: Source) -> Record | None:
    if not isinstance(results, list):
        source.problem(line, f"the annotation's result is {kind(results)}", "wanted a list")
        return None
    marks: dict[str, list[Any]] = {}
    for result in results:
        fields = result if isinstance(result, Mapping) else {}
        value, type_of, name = fields.get("value"), str(fields.get("type")), str(fields.get("from_name") or "label")
        if type_of == "relation":
            source.notices.add("relations", count=1, unit="relation", first=source.place(line), done="left out")
        elif not isinstance(value, Mapping) or (type_of not in _SPANS and type_of not in _VALUES):
            what = f"an annotation of type {type_of!r:.40}"
            source.problem(line, what, f"known: {', '.join((*_SPANS, *_VALUES))}")
            return None
        elif type_of in _SPANS:
            marks.setdefault(name, []).append({**value, "labels": value.get(type_of)})
        else:
            marks.setdefault(name, []).append(value.get(_VALUES[type_of]))
    for tag, values in marks.items():
        spans = spans_in(values)
        if spans:
            row = with_spans(row, tag, spans)
        elif any(isinstance(value, Mapping) for value in values):
            source.problem(line, f"a span of {tag!r} has no start, end and labels", "wanted whole numbers and a label")
            return None
        else:
            flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
            row = {**row, tag: flat[0] if len(flat) == 1 else flat}
    return row


LABEL_STUDIO = Shape("label-studio", "Label Studio", _is_like, _read)
