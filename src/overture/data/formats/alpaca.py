"""Alpaca (Taori et al. 2023): `instruction`, `input` (often empty) and `output`.

LLaMA-Factory adds a `system` text and a `history` of questions and answers; where a file has any, its rows are
conversations too: `messages`, and `user` and `assistant` where there is one question.
"""

from collections.abc import Sequence

from overture.data.formats.form import Item, Record, Shape, Source
from overture.data.formats.messages import Message, conversation
from overture.data.values import kind

_FIELDS = ("instruction", "input", "output")


def _is_like(record: Record) -> bool:
    return "instruction" in record and "output" in record and "messages" not in record


def _read(items: Sequence[Item], source: Source) -> list[Item]:
    rows = []
    for item in items:
        row = {**item.fields, **{name: "" for name in ("input",) if item.fields.get(name) is None}}
        for name in _FIELDS:
            if name not in row:
                source.problem(item.line, f"no field {name!r}", f"Alpaca has {', '.join(_FIELDS)}")
            elif not isinstance(row[name], str):
                source.problem(item.line, f"{name!r} is {kind(row[name])}", "wanted text")
        rows.append(Item(row, item.line, item.split))
    if source.problems or not any(row.fields.get("system") or row.fields.get("history") for row in rows):
        return rows
    done = "the field messages holds them"
    source.notices.add("system texts or earlier turns beside an instruction", source.name, done=done)
    return [talk for row in rows for talk in conversation(row, _messages(row, source), source)]


def _messages(item: Item, source: Source) -> list[Message | None]:
    """The system text, the earlier turns, the instruction with its input, and the output."""
    system, history, row = item.fields.get("system"), item.fields.get("history") or [], item.fields
    if system is not None and not isinstance(system, str):
        source.problem(item.line, f"'system' is {kind(system)}", "wanted text")
        return [None]
    is_list = isinstance(history, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history)
    if not is_list or not all(isinstance(text, str) for pair in history for text in pair):
        source.problem(item.line, "'history' is no list of pairs of texts", 'wanted [["question", "answer"], ...]')
        return [None]
    question = "\n".join(text for text in (row["instruction"], row["input"]) if text)
    texts = [text for pair in (*history, (question, row["output"])) for text in pair]
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return [*([{"role": "system", "content": system}] if system else []), *turns]


ALPACA = Shape("alpaca", "Alpaca", _is_like, _read)
