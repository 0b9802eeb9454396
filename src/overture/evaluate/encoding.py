"""Rows of requests as tokens: a row is encoded once for all prompts that show it alike."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from overture.core.errors import DataError
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.evaluate.inquiry import EncodedAsk
from overture.evaluate.scoring import grouped

if TYPE_CHECKING:
    from overture.evaluate.host import Ask


def encoded_asks(requests: "Sequence[Ask]") -> list[EncodedAsk]:
    """The requests' rows as tokens, in order; one that cannot be encoded has its problem in their place.

    Args:
        requests: rows, each with the prompt that answers it.
    """
    encoded: dict[int, EncodedAsk] = {}
    by_encoding: dict[str, dict[int, list[int]]] = {}
    for index, request in enumerate(requests):
        same_task = by_encoding.setdefault(request.handle.encoding, {})
        same_task.setdefault(request.handle.encoder.reserve, []).append(index)
    requests_of = {id(request.fields): request for request in requests}
    # Values that are not of JSON are equal only to themselves.
    key_of = partial(json.dumps, sort_keys=True, default=lambda value: f"{type(value)} {id(value)}")
    keys = {number: request.root + key_of(request.fields) for number, request in requests_of.items()}
    for by_reserve in by_encoding.values():
        # A row that fits whole beside the longest prompt is the same beside a shorter one.
        whole_rows: dict[str, tuple[Encoded, ...]] = {}
        for _, indices in sorted(by_reserve.items(), reverse=True):
            encoder = requests[indices[0]].handle.encoder
            rows: dict[str, Ask] = {}
            for index in indices:
                key = keys[id(requests[index].fields)]
                if key not in whole_rows:
                    rows.setdefault(key, requests[index])
            num_shortened = encoder.num_shortened
            parts, problems = _encode(encoder, rows)
            is_whole = all(len(row_parts) == 1 for row_parts in parts.values())
            if is_whole and encoder.num_shortened == num_shortened:
                whole_rows |= parts
            for index in indices:
                request, key = requests[index], keys[id(requests[index].fields)]
                if key not in problems:
                    encoded[index] = EncodedAsk(request.handle, parts[key] if key in parts else whole_rows[key])
                elif (request.number, request.source) == (rows[key].number, rows[key].source):
                    encoded[index] = EncodedAsk(request.handle, problem=problems[key])
                else:
                    # The same mistake in another row, which its error must name.
                    encoded[index] = EncodedAsk(request.handle, problem=_encode(encoder, {key: request})[1][key])
    return [encoded[index] for index in range(len(requests))]


def _encode(
    encoder: Encoder, requests: "Mapping[str, Ask]"
) -> tuple[dict[str, tuple[Encoded, ...]], dict[str, DataError]]:
    """The rows of requests as tokens, and the problems of those that cannot be encoded, by the requests' keys."""
    rows, problems = {}, {}
    for key, request in requests.items():
        fields, columns = request.fields, encoder.task.columns
        if not isinstance(fields, str):
            rows[key] = Row(dict(fields), request.number, request.source, request.root)
        elif len(columns) == 1:
            rows[key] = Row({columns[0]: fields}, request.number, request.source, request.root)
        else:
            problems[key] = DataError(
                "a plain text fits only a template with one field", got="a text", wanted=", ".join(columns)
            )
    try:
        parts = grouped(encoder.encode(list(rows.values()), with_answer=False))
        return {key: tuple(row_parts) for key, row_parts in zip(rows, parts, strict=True)}, problems
    except DataError:
        encoded = {}
        for key, row in rows.items():
            try:
                encoded[key] = tuple(encoder.encode([row], with_answer=False))
            except DataError as error:
                problems[key] = error
        return encoded, problems
