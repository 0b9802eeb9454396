"""Marked spans as annotation tools write them, as objects with start, end and label.

doccano has ``[start, end, label]`` or ``start_offset`` and ``end_offset``, Label Studio a list of ``labels``; others
have ``offset`` and ``length``, and call the label a type, an entity or a tag.
"""

from collections.abc import Mapping
from typing import Any

_STARTS, _ENDS = ("start", "start_offset", "begin", "offset"), ("end", "end_offset")
_LABELS = ("label", "type", "entity", "tag")


def spans_in(value: Any) -> list[dict[str, Any]] | None:
    """A field's spans, each with start, end, label and its text if the tool gives it; None if it holds none."""
    if not isinstance(value, list) or not value:
        return None
    spans: list[dict[str, Any]] = []
    for mark in value:
        marks = _of_list(mark) if isinstance(mark, list) else _of_object(mark) if isinstance(mark, Mapping) else None
        if marks is None:
            return None
        spans += marks
    return spans


def _of_list(mark: list[Any]) -> list[dict[str, Any]] | None:
    if len(mark) != 3 or not isinstance(mark[2], str) or not all(type(place) is int for place in mark[:2]):
        return None
    return [{"start": mark[0], "end": mark[1], "label": mark[2]}]


def _of_object(mark: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    start = next((mark[name] for name in _STARTS if type(mark.get(name)) is int), None)
    end = next((mark[name] for name in _ENDS if type(mark.get(name)) is int), None)
    if end is None and type(mark.get("length")) is int and "offset" in mark and start is not None:
        end = start + mark["length"]
    labels = mark.get("labels", next(([mark[name]] for name in _LABELS if name in mark), None))
    if start is None or end is None or not isinstance(labels, list) or not labels:
        return None
    if not all(isinstance(label, str) for label in labels):
        return None
    text = {"text": mark["text"]} if isinstance(mark.get("text"), str) else {}
    return [{"start": start, "end": end, "label": label, **text} for label in labels]


def with_spans(fields: dict[str, Any], name: str, spans: list[dict[str, Any]]) -> dict[str, Any]:
    """A record with its spans under their own field and under `spans`, unless that holds something else."""
    return {**fields, name: spans, **({} if fields.get("spans") else {"spans": spans})}
