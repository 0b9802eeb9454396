"""doccano: `text` with spans in `label`, `labels` or `entities`; texts with a list of labels are plain rows already."""

from collections.abc import Sequence

from overture.data.formats.form import Item, Record, Shape, Source
from overture.data.formats.spans import spans_in, with_spans

_FIELDS = ("label", "labels", "entities")


def _span_field(record: Record) -> str | None:
    return next((name for name in _FIELDS if spans_in(record.get(name))), None)


def _is_like(record: Record) -> bool:
    """Whether the record has spans; one without any looks like one with none of the labels."""
    if not isinstance(record.get("text", record.get("data")), str):
        return False
    return _span_field(record) is not None or any(record.get(name) == [] for name in _FIELDS)


def _read(items: Sequence[Item], source: Source) -> list[Item]:
    fields = [field for item in items if (field := _span_field(item.fields))]
    if not fields:
        return list(items)
    name = max(set(fields), key=fields.count)
    rows = []
    for item in items:
        value = item.fields.get(name)
        spans = [] if value in (None, []) else spans_in(value)
        if spans is None:
            source.problem(item.line, f"field {name!r} holds something else than spans", "wanted start, end and label")
            continue
        if item.fields.get("relations"):
            count = len(item.fields["relations"])
            source.notices.add(
                "relations", count=count, unit="relation", first=source.place(item.line), done="not read"
            )
        row = with_spans(item.fields, name, spans)
        rows.append(Item({**row, "text": row.get("text", row.get("data"))}, item.line, item.split))
    return rows


DOCCANO = Shape("doccano", "doccano with spans", _is_like, _read)
