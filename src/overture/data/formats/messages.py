"""OpenAI messages: `messages` of `role` and `content`.

Rows have `messages`, each `role` (system, user or assistant) and `content` as text; a conversation of one question and
one answer also has them as `user` and `assistant`, with the `system` text or an empty one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.form import Problems, Row, Shape
from overture.data.values import kind

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def _is_like(record: Row) -> bool:
    return is_list_with(record.get("messages"), "role")


def is_list_with(found: Any, key: str) -> bool:
    """Whether something is a list of objects that all have a key."""
    return isinstance(found, list) and bool(found) and all(isinstance(item, dict) and key in item for item in found)


def _rows(record: Row, where: str, problems: Problems) -> Sequence[Row]:
    found = record.get("messages")
    if not is_list_with(found, "role"):
        problems.append(Problem(where, "no list of messages", 'wanted "messages": [{"role": ..., "content": ...}]'))
        return []
    assert isinstance(found, list)
    read = [_message(item, f"message {number}", where, problems) for number, item in enumerate(found, 1)]
    messages = [message for message in read if message]
    return [with_turns(record, messages)] if len(messages) == len(found) else []


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
    """A content as text: text, or a list of parts that are all text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else None


def with_turns(record: Row, messages: Sequence[Mapping[str, str]]) -> Row:
    """A record with its messages and, for one question with one answer, the fields of their own."""
    row = {**record, "messages": [dict(message) for message in messages]}
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    turns = [message for message in messages if message["role"] != "system"]
    if [turn["role"] for turn in turns] == ["user", "assistant"]:
        row |= {"system": system, "user": turns[0]["content"], "assistant": turns[1]["content"]}
    return row


MESSAGES = Shape("messages", "OpenAI messages", _is_like, _rows)
