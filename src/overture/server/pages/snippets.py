"""How to ask what a page asks: the same request for curl, for Python and for the command line."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from overture.server.registry import Served
from overture.server.service import Row, row_of
from overture.store.usage import PLAIN, curl_command, sample_input


@dataclass(frozen=True, slots=True)
class Snippets:
    """A request in three forms.

    Args:
        curl: for a shell.
        python: for a program.
        cli: without a server.
    """

    curl: str
    python: str
    cli: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where prompts are asked.

    Args:
        url: of the server.
        base: the name of its model without a prompt.
        has_keys: whether it wants a key.
        store: the folder of its store, where commands must name it.
    """

    url: str
    base: str
    has_keys: bool
    store: str = ""


def sample_row(prompt: Served) -> Row:
    """A made-up row for a prompt: a text where that is enough."""
    sample = sample_input(prompt.manifest.task) if prompt.manifest else PLAIN
    if sample == PLAIN:
        return sample
    row: dict[str, JsonValue] = json.loads(sample)
    # The server takes a text for a conversation of one turn.
    return PLAIN if prompt.columns == ("messages",) else row


def snippets(prompts: Sequence[Served], row: Row, where: Address, max_tokens: int | None = None) -> Snippets:
    """A request for prompts about one row.

    Args:
        prompts: who is asked; of several, all are.
        row: a text, or the fields of their templates.
        where: the server and the store.
        max_tokens: most tokens of written answers; the task's if None.
    """
    # Clients of OpenAI send a text; the fields of a template go to /v1/predict, whatever the answer is.
    writing = [prompt for prompt in prompts if prompt.writes and isinstance(row, str)]
    typed = [prompt.ref for prompt in prompts if prompt not in writing and prompt.ref]
    model_names = [prompt.ref or where.base for prompt in writing]
    curls, programs = [], []
    if typed:
        curls.append(
            _curl(where, "/v1/predict", {"prompt": typed[0] if len(typed) == 1 else [*typed], "inputs": [row]})
        )
        programs.append(_library(typed, row, where))
    length: dict[str, JsonValue] = {} if max_tokens is None else {"max_tokens": max_tokens}
    for name in model_names:
        curls.append(_curl(where, "/v1/completions", {"model": name, "prompt": row, **length, "stream": True}))
    if model_names:
        programs.append(_openai(model_names, row, where, length))
    commands = [_command(prompt, row, where) for prompt in prompts if prompt.ref]
    return Snippets("\n\n".join(curls), "\n\n".join(programs), "\n".join(commands))


def _command(prompt: Served, row: Row, where: Address) -> str:
    # A conversation is a text for the server alone.
    local_row = row_of(row, [prompt], "") if prompt.columns == ("messages",) else row
    text = local_row if isinstance(local_row, str) else json.dumps(local_row, ensure_ascii=False)
    flag = f" --store {shlex.quote(where.store)}" if where.store else ""
    return f"overture predict {prompt.ref}{flag} {'-- ' if text.startswith('-') else ''}{shlex.quote(text)}"


def _curl(where: Address, path: str, body: dict[str, JsonValue]) -> str:
    key = ' -H "Authorization: Bearer $KEY"' if where.has_keys else ""
    is_stream = " -N" if body.get("stream") else ""
    head = f"curl{is_stream} {where.url}{path} -H content-type:application/json{key} \\\n "
    return curl_command(head, json.dumps(body, ensure_ascii=False))


def _library(names: Sequence[str], row: Row, where: Address) -> str:
    store = f", store={where.store!r}" if where.store else ""
    if len(names) == 1:
        return f"import overture\n\nprompt = overture.load({names[0]!r}{store})\nprint(prompt.predict([{row!r}]))"
    return (
        f"import overture\n\nrow = {row!r}\nfor name in {list(names)!r}:\n"
        f"    print(name, overture.load(name{store}).predict([row]))"
    )


def _openai(names: Sequence[str], row: Row, where: Address, length: dict[str, JsonValue]) -> str:
    key, head = ('os.environ["KEY"]', "import os\n\n") if where.has_keys else ('"none"', "")
    more = "".join(f", {name}={value}" for name, value in length.items())
    call = "print(client.completions.create(model={name!r}, prompt={row!r}{more}).choices[0].text)"
    return "\n".join(
        [
            f"{head}from openai import OpenAI\n",
            f'client = OpenAI(base_url="{where.url}/v1", api_key={key})',
            *(call.format(name=name, row=row, more=more) for name in names),
        ]
    )
