"""OpenAI messages: `messages` of `role` and `content`.

Rows have `messages`, each `role` (system, user or assistant) and `content` as text, and `weight` 0 for a turn of the
assistant that is context only. A conversation of one question and one answer also has them as `user` and `assistant`,
with the `system` text or an empty one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.form import Item, Problems, Record, Shape, Source, is_list_with
from overture.data.values import kind

Message = dict[str, Any]
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_FLAGS = ("weight", "train", "trainable", "training", "loss")
"""Names that the tools of the field give to a turn's weight, or to whether it is learnt."""


def _is_like(record: Record) -> bool:
    return is_list_with(record.get("messages"), "role")


def _read(items: Sequence[Item], source: Source) -> list[Item]:
    rows = []
    for item in items:
        turns = item.fields.get("messages")
        if not is_list_with(turns, "role"):
            what = "no list of messages"
            source.problem(item.line, what, 'wanted "messages": [{"role": ..., "content": ...}]')
            continue
        assert isinstance(turns, list)
        place = source.place(item.line)
        messages = [_message(turn, f"message {i}", place, source.problems) for i, turn in enumerate(turns, 1)]
        rows += conversation(item, messages, source)
    return rows


def _message(item: Mapping[str, Any], name: str, where: str, problems: Problems) -> Message | None:
    role = _ROLES.get(str(item["role"]))
    if role is None:
        problems.append(Problem(where, f"{name} has the role {item['role']!r:.40}", f"known: {', '.join(_ROLES)}"))
        return None
    if any(item.get(key) for key in ("tool_calls", "function_call")):
        problems.append(Problem(where, f"{name} calls a tool", "wanted text"))
        return None
    content = _text(item.get("content"))
    if content is None:
        problems.append(Problem(where, f"{name} has as content {kind(item.get('content'))}", "wanted text"))
        return None
    weight = weight_of(item, name, where, problems) if role == "assistant" else {}
    return {"role": role, "content": content, **weight}


def weight_of(item: Mapping[str, Any], name: str, where: str, problems: Problems) -> Message:
    """A weight of 0 if a turn of the assistant is not to be learnt; nothing if it is."""
    for flag in _FLAGS:
        value = item.get(flag)
        if value not in (None, 0, 1):
            problems.append(Problem(where, f"{name} has {flag} {value!r:.40}", "wanted 0 or 1, true or false"))
        elif value is not None and not value:
            return {"weight": 0}
    return {}


def _text(content: Any) -> str | None:
    """The content of a message, which is a text or a list of text parts; None for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else None


def conversation(item: Item, messages: Sequence[Message | None], source: Source) -> list[Item]:
    """A record with its messages, as one row or none.

    What follows the last turn that is to be learnt is left out; a record without such a turn is left out whole, unless
    the assistant says nothing in it. One question with one answer also gets the fields user, assistant and system.

    Args:
        item: the record.
        messages: its messages, None for those that are wrong.
        source: gets a notice of what is left out.
    """
    if any(message is None for message in messages):
        return []
    place = source.place(item.line)
    turns = [message for message in messages if message is not None]
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    unlearnt = [i for i in answers if turns[i].get("weight") == 0]
    if unlearnt:
        done, unit = "shown and not learnt", "turn"
        count = len(unlearnt)
        source.notices.add("turns of the assistant with weight 0", count=count, unit=unit, first=place, done=done)
    if answers and len(unlearnt) == len(answers):
        source.notices.add("conversations without a turn to learn", count=1, first=place, done="left out")
        return []
    if unlearnt and answers[-1] == unlearnt[-1]:
        turns = turns[: max(set(answers) - set(unlearnt)) + 1]
        source.notices.add("conversations that end with weight 0", count=1, first=place, done="end left out")
    row = {**item.fields, "messages": turns}
    system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
    spoken = [turn for turn in turns if turn["role"] != "system"]
    if [turn["role"] for turn in spoken] == ["user", "assistant"]:
        row |= {"system": system, "user": spoken[0]["content"], "assistant": spoken[1]["content"]}
    return [Item(row, item.line, item.split)]


MESSAGES = Shape("messages", "OpenAI messages", _is_like, _read)
