"""How to ask what a page asks: the same request for curl, for Python and for the command line."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from overture.server.registry import Served
from overture.server.service import Row, row_of
from overture.store.usage import PLAIN, sample_input


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


def sample_row(prompt: Served) -> Row:
    """A made-up row for a prompt: a text where that is enough."""
    sample = sample_input(prompt.manifest.task) if prompt.manifest else PLAIN
    if sample == PLAIN:
        return sample
    row: dict[str, JsonValue] = json.loads(sample)
    # The server takes a text for a conversation of one turn.
    return PLAIN if prompt.columns == ("messages",) else row


def snippets(prompts: Sequence[Served], row: Row, url: str, has_keys: bool, base: str = "model") -> Snippets:
    """A request for prompts about one row.

    Args:
        prompts: who is asked; of several, all are.
        row: a text, or the fields of their templates.
        url: of the server.
        has_keys: whether it wants a key.
        base: the name of the model without a prompt.
    """
    writing = [prompt for prompt in prompts if prompt.writes]
    typed = [prompt for prompt in prompts if not prompt.writes] or ([] if isinstance(row, str) else writing)
    curls, parts = [], []
    if typed:
        names: JsonValue = typed[0].ref if len(typed) == 1 else [prompt.ref for prompt in typed]
        body: dict[str, JsonValue] = {"prompt": names, "inputs": [row if isinstance(row, str) else dict(row)]}
        curls.append(_curl(f"{url}/v1/predict", body, has_keys))
    if isinstance(row, str) and writing:
        for prompt in writing:
            name = prompt.ref or base
            curls.append(_curl(f"{url}/v1/completions", {"model": name, "prompt": row, "stream": True}, has_keys))
        parts.append(_openai([prompt.ref or base for prompt in writing], row, url, has_keys))
        local = [prompt for prompt in typed if prompt.ref]
    else:
        local = [prompt for prompt in prompts if prompt.ref]
    if local:
        parts.insert(0, _library([prompt.ref for prompt in local], row))
    return Snippets(
        "\n\n".join(curls),
        "\n\n".join(parts),
        "\n".join(_command(prompt, row) for prompt in prompts if prompt.ref),
    )


def _command(prompt: Served, row: Row) -> str:
    # A conversation is a text for the server alone.
    local = row_of(row, [prompt], "") if prompt.columns == ("messages",) else row
    shown = local if isinstance(local, str) else json.dumps(local, ensure_ascii=False)
    return f"overture predict {prompt.ref} {'-- ' if shown.startswith('-') else ''}{shlex.quote(shown)}"


def _curl(address: str, body: dict[str, JsonValue], has_keys: bool) -> str:
    key = ' -H "Authorization: Bearer $KEY"' if has_keys else ""
    is_stream = " -N" if body.get("stream") else ""
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl{is_stream} {address} -H content-type:application/json{key} \\\n  -d {data}"


def _library(names: Sequence[str], row: Row) -> str:
    value = repr(row if isinstance(row, str) else dict(row))
    if len(names) == 1:
        return f"import overture\n\nprompt = overture.load({names[0]!r})\nprint(prompt.predict([{value}]))"
    return (
        f"import overture\n\nrow = {value}\nfor name in {list(names)!r}:\n"
        "    print(name, overture.load(name).predict([row]))"
    )


def _openai(names: Sequence[str], text: str, url: str, has_keys: bool) -> str:
    key = 'os.environ["KEY"]' if has_keys else '"none"'
    head = "import os\n\n" if has_keys else ""
    lines = [
        f'{head}from openai import OpenAI\n\nclient = OpenAI(base_url="{url}/v1", api_key={key})',
        *(f"print(client.completions.create(model={name!r}, prompt={text!r}).choices[0].text)" for name in names),
    ]
    return "\n".join(lines)
