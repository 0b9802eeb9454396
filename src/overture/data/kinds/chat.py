"""Conversations: every turn of the assistant is learnt, behind all that was said before it.

A row with k turns of the assistant becomes k examples, so that a prompt at ``after`` stands where it will stand when
the model is used: at the end of what the assistant answers to. Turns of weight 0 are context only. The last turn is
what predictions are scored against. What the template has around {messages} stands around the first user's message,
``{prompt:5}`` with it.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from overture.core.errors import ConfigError, Problem
from overture.core.rows import Prediction
from overture.data.kind import Example, TaskFile, TaskKind, Tools
from overture.data.kinds.generation import question, read
from overture.data.kinds.labels import no_mask
from overture.data.row import Row, broken_text, missing_field
from overture.data.values import kind

_ROLES = ("system", "user", "assistant")


_MESSAGES = "messages"
"""The field with a row's messages: objects with role and content."""


def _check(task: TaskFile) -> None:
    if task.labels is not None or task.answer_field is not None:
        raise ConfigError(
            "the rows hold the answers: labels and answer_field are for other kinds",
            where="labels" if task.labels else "answer_field",
        )
    no_mask(task)
    if not isinstance(task.template, str) or task.fields != (_MESSAGES,):
        raise ConfigError(f"the template of a chat is a text with {{{_MESSAGES}}} and no other field", where="template")
    if task.template.count(f"{{{_MESSAGES}}}") != 1:
        raise ConfigError(f"the template shows {{{_MESSAGES}}} more than once", where="template")


def _target_fields(task: TaskFile) -> tuple[str, ...]:
    del task
    return ()


def _field_text(task: TaskFile, name: str, value: Any) -> str | None:
    """The conversation as plain text, to find repeats and empty rows by; what is wrong with it is told elsewhere."""
    del task, name
    if not isinstance(value, list):
        return None
    turns = [turn for turn in value if isinstance(turn, dict)]
    while turns and turns[-1].get("role") == "assistant":
        turns = turns[:-1]
    return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in turns) or "(nothing said)"


def _turns(task: TaskFile, row: Row) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in row.fields[_MESSAGES]]


def _input_problems(task: TaskFile, row: Row) -> list[Problem]:
    name = _MESSAGES
    if name not in row.fields:
        return [missing_field(name, row.where, list(row.fields))]
    turns = row.fields[name]
    if not isinstance(turns, list) or not turns:
        return [Problem(row.where, f"field {name!r} is {kind(turns)}", "wanted a list of messages, at least one")]
    problems = [problem for number, turn in enumerate(turns, 1) for problem in _turn_problems(name, number, turn, row)]
    return problems or _order_problems([turn["role"] for turn in turns], row)


def _turn_problems(name: str, number: int, turn: Any, row: Row) -> list[Problem]:
    if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
        return [Problem(row.where, f"message {number} is {turn!r:.60}", "wanted an object with role and content")]
    if turn["role"] not in _ROLES:
        return [Problem(row.where, f"message {number} has role {turn['role']!r:.40}", f"known: {', '.join(_ROLES)}")]
    if not isinstance(turn["content"], str) or not turn["content"].strip():
        return [Problem(row.where, f"message {number} is empty or no text")]
    return broken_text(name, turn["content"], row)


def _order_problems(roles: Sequence[str], row: Row) -> list[Problem]:
    if "system" in roles[1:]:
        return [Problem(row.where, "a system message stands behind others", "it comes first")]
    spoken = [role for role in roles if role != "system"]
    if not spoken or spoken != [("user", "assistant")[number % 2] for number in range(len(spoken))]:
        return [Problem(row.where, "user and assistant do not take turns", "wanted user, assistant, user, ...")]
    return []


def _problems(task: TaskFile, row: Row) -> list[Problem]:
    if _input_problems(task, row):
        return []
    last = row.fields[_MESSAGES][-1]
    if last["role"] != "assistant":
        return [Problem(row.where, "the last message is not the assistant's", "there is nothing to learn behind it")]
    if last.get("weight") == 0:
        return [Problem(row.where, "the last turn has weight 0", "leave it out, or set data.format: messages")]
    return []


def _gold(task: TaskFile, row: Row) -> Hashable:
    return _turns(task, row)[-1][1]


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    del texts
    turns = _turns(task, row)
    if not with_answer:
        return [_example(task, turns[:-1] if turns[-1][0] == "assistant" else turns, None)]
    examples = []
    for number, (role, content) in enumerate(turns):
        if role == "assistant" and row.fields[_MESSAGES][number].get("weight") != 0:
            examples.append(_example(task, turns[:number], tools.ended(tools.tokenizer.encode_plain(content))))
    return examples


def _example(task: TaskFile, turns: Sequence[tuple[str, str]], answer: tuple[int, ...] | None) -> Example:
    """The messages before a turn of the assistant, each as a field."""
    before, _, behind = task.template.partition(f"{{{_MESSAGES}}}")
    first = next(number for number, (role, _) in enumerate(turns) if role == "user")
    messages = [
        (role, f"{before}{{m{number}}}{behind}" if number == first else f"{{m{number}}}")
        for number, (role, _) in enumerate(turns)
    ]
    texts = {f"m{number}": content for number, (_, content) in enumerate(turns)}
    return Example(texts, answer_ids=answer, messages=tuple(messages))


def _merged(task: TaskFile, parts: Sequence[Prediction]) -> Prediction:
    """The last turn's answer."""
    del task
    return parts[-1]


def _sample(task: TaskFile) -> dict[str, Any]:
    return {_MESSAGES: [{"role": "user", "content": "some text"}]}


KIND = TaskKind(
    name="chat",
    title="the assistant's turns of conversations",
    metrics=("chrf", "bleu", "rouge_1", "rouge_2", "rouge_l", "squad_f1", "exact_match", "exact_text"),
    check=_check,
    target_fields=_target_fields,
    input_problems=_input_problems,
    problems=_problems,
    gold=_gold,
    examples=_examples,
    question=question,
    read=read,
    field_text=_field_text,
    wanted="wanted a list of messages",
    stopped=lambda task, row: _turns(task, row)[-1][1],
    stop=(),
    merged=_merged,
    writes=True,
    is_shown_as_written=True,
    sample=_sample,
)
