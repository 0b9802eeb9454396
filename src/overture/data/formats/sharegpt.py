"""ShareGPT: `conversations` of `from` and `value`; a `system` text may stand beside them. Rows as of messages."""

from collections.abc import Mapping, Sequence
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.form import Problems, Record, Shape
from overture.data.formats.messages import is_list_with, with_turns
from overture.data.values import kind

_SPEAKERS = {"system": "system", "human": "user", "user": "user"}
_SPEAKERS |= dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "bing", "model"), "assistant")


def _is_like(record: Record) -> bool:
    return is_list_with(record.get("conversations"), "from")


def _rows(record: Record, where: str, problems: Problems) -> Sequence[Record]:
    turns = record.get("conversations")
    if not is_list_with(turns, "from"):
        problems.append(Problem(where, "no conversation", 'wanted "conversations": [{"from": ..., "value": ...}]'))
        return []
    assert isinstance(turns, list)
    read = [_message(turn, f"message {number}", where, problems) for number, turn in enumerate(turns, 1)]
    messages = [message for message in read if message]
    if len(messages) < len(turns):
        return []
    system = record.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return [with_turns({name: value for name, value in record.items() if name != "conversations"}, messages)]


def _message(item: Mapping[str, Any], name: str, where: str, problems: Problems) -> dict[str, str] | None:
    role = _SPEAKERS.get(str(item["from"]))
    if role is None:
        problems.append(Problem(where, f"{name} is from {item['from']!r}", f"known: {', '.join(_SPEAKERS)}"))
        return None
    if not isinstance(item.get("value"), str):
        problems.append(Problem(where, f"{name} has as value {kind(item.get('value'))}", "wanted text"))
        return None
    return {"role": role, "content": item["value"]}


SHAREGPT = Shape("sharegpt", "ShareGPT", _is_like, _rows)
