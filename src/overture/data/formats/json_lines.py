"""JSON lines: one object on each line."""

from overture.data.formats.encoding import text_of
from overture.data.formats.form import UNREADABLE, Container, Item, Source
from overture.data.formats.json_values import decoder, not_an_object, reason


def items_of_text(text: str, source: Source) -> list[Item]:
    """Objects and their lines; every bad line is a problem."""
    items = []
    decode = decoder().decode
    # Not splitlines(): it also cuts at characters that JSON strings may hold as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = decode(line)
        except (ValueError, RecursionError) as error:
            source.problem(number, f"not JSON: {reason(error)}")
            source.misfits[number] = {UNREADABLE: line.removesuffix("\r")}
            continue
        if isinstance(fields, dict):
            items.append(Item(fields, number))
        else:
            source.problem(number, *not_an_object(fields))
            source.misfits[number] = {UNREADABLE: line.removesuffix("\r")}
    return items


JSONL = Container(
    "jsonl",
    (".jsonl", ".ndjson"),
    lambda source: items_of_text(text_of(source), source),
    lambda text: text.lstrip().startswith("{"),
)
