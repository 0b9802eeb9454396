"""ShareGPT: `conversations` of `from` and `value`; a `system` text may stand beside them. Rows as of messages."""

from collections.abc import Mapping, Sequence
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.form import Item, Problems, Record, Shape, Source, is_list_with
from overture.data.formats.messages import Message, conversation, weight_of
from overture.data.values import kind

_SPEAKERS = {"system": "system", "human": "user", "user": "user"}
_SPEAKERS |= dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "bing", "model"), "assistant")


def _is_like(record: Record) -> bool:
    return is_list_with(record.get("conversations"), "from")


def _read(items: Sequence[Item], source: Source) -> list[Item]:
    rows = []
    for item in items:
        turns, place = item.fields.get("conversations"), source.place(item.line)
        if not is_list_with(turns, "from"):
            what = "no conversation"
            source.problem(item.line, what, 'wanted "conversations": [{"from": ..., "value": ...}]')
            continue
        assert isinstance(turns, list)
        mask = item.fields.get("loss_mask")
        if mask is not None and (not isinstance(mask, list) or len(mask) != len(turns)):
            source.problem(item.line, "loss_mask has another length than conversations", f"wanted {len(turns)} numbers")
            continue
        if isinstance(mask, list):
            turns = [turn | {"weight": weight} for turn, weight in zip(turns, mask, strict=True)]
        messages = [_message(turn, f"message {i}", place, source.problems) for i, turn in enumerate(turns, 1)]
        system = item.fields.get("system")
        if isinstance(system, str) and system.strip() and messages[0] is not None:
            if messages[0]["role"] != "system":
                messages.insert(0, {"role": "system", "content": system})
            elif messages[0]["content"] != system:
                done = "that of the conversation counts"
                source.notices.add("two system texts", count=1, first=place, done=done)
        fields = {name: value for name, value in item.fields.items() if name not in ("conversations", "loss_mask")}
        rows += conversation(Item(fields, item.line, item.split), messages, source)
    return rows


def _message(item: Mapping[str, Any], name: str, where: str, problems: Problems) -> Message | None:
    role = _SPEAKERS.get(str(item["from"]))
    if role is None:
        problems.append(Problem(where, f"{name} is from {item['from']!r:.40}", f"known: {', '.join(_SPEAKERS)}"))
        return None
    if not isinstance(item.get("value"), str):
        problems.append(Problem(where, f"{name} has as value {kind(item.get('value'))}", "wanted text"))
        return None
    weight = weight_of(item, name, where, problems) if role == "assistant" else {}
    return {"role": role, "content": item["value"], **weight}


SHAREGPT = Shape("sharegpt", "ShareGPT", _is_like, _read)
