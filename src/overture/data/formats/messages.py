"""OpenAI messages: `messages` of `role` and `content`.

Rows have `messages`, each `role` (system, user or assistant) and `content` as text; a conversation of one question and
one answer also has them as `user` and `assistant`, with the `system` text or an empty one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.form import Problems, Record, Shape
from overture.data.values import kind

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def _is_like(record: Record) -> bool:
    return is_list_with(record.get("messages"), "role")


def is_list_with(value: Any, key: str) -> bool:
    """Whether a value is a list of objects that all have a key."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and key in item for item in value)


def _rows(record: Record, where: str, problems: Problems) -> Sequence[Record]:
    turns = record.get("messages")
    if not is_list_with(turns, "role"):
        problems.append(Problem(where, "no list of messages", 'wanted "messages": [{"role": ..., "content": ...}]'))
        return []
    assert isinstance(turns, list)
    read = [_message(turn, f"message {number}", where, problems) for number, turn in enumerate(turns, 1)]
    messages = [message for message in read if message]
    return [with_turns(record, messages)] if len(messages) == len(turns) else []


def _message(item: Mapping[str, Any], name: str, where: str, problems: Problems) -> dict[str, str] | None:
    role = _ROLES.get(str(item["role"]))
    if role is None:
        problems.append(Problem(where, f"{name} has the role {item['role']!r}", f"known: {', '.join(_ROLES)}"))
        return None
    content = _text(item.get("content"))
    if content is None:
        calls = any(item.get(key) for key in ("tool_calls", "function_call"))
        what = "calls a tool" if calls else f"has as content {kind(item.get('content'))}"
        problems.append(Problem(where, f"{name} {what}", "wanted text"))
        return None
    return {"role": role, "content": content}


def _text(content: Any) -> str | None:
    """The content of a message, which is a text or a list of text parts; None for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else None


def with_turns(record: Record, messages: Sequence[Mapping[str, str]]) -> Record:
    """A record with its messages; one question with one answer also gets the fields user, assistant and system."""
    row = {**record, "messages": [dict(message) for message in messages]}
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    turns = [message for message in messages if message["role"] != "system"]
    if [turn["role"] for turn in turns] == ["user", "assistant"]:
        row |= {"system": system, "user": turns[0]["content"], "assistant": turns[1]["content"]}
    return row


MESSAGES = Shape("messages", "OpenAI messages", _is_like, _rows)
