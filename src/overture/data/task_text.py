"""The text of a task file that is written for its user: each key under a comment that says what it is."""

import os
import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel

from overture.data.task import DataConfig, Task
from overture.data.task_file import PATHS

_WIDTH = 100
_YAML_WORDS = ("null", "true", "false", "yes", "off")
_LETTERS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "ø": "o", "å": "aa", "œ": "oe", "ł": "l"}
)


def slug(name: str) -> str:
    """A name for a task: small letters and digits, joined by dashes; letters of other alphabets are left out."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFC", name).lower().translate(_LETTERS))
    text = re.sub(r"[^a-z0-9_-]+", "-", "".join(c for c in plain if not unicodedata.combining(c)))
    return re.sub(r"-{2,}", "-", text).strip("-_")[:64].rstrip("-_") or "task"


def task_text(values: Mapping[str, Any], folder: Path, comments: Mapping[str, str] = MappingProxyType({})) -> str:
    """A task file's text.

    Args:
        values: its keys; paths are absolute, or relative to the working folder.
        folder: the folder of the task file, to which its paths are written relative.
        comments: for keys whose description does not fit.
    """
    lines: list[str] = []
    for key, value in values.items():
        if key == "name":
            lines.append(_entry(key, value))
            continue
        lines.append("")
        if key == "data":
            lines.append("data:")
            for name, entry in value.items():
                shown_value = os.path.relpath(entry, folder) if name in PATHS else entry
                lines += [*_comment(DataConfig, name, "  "), textwrap.indent(_entry(name, shown_value), "  ")]
        else:
            lines += [*_comment(Task, key, text=comments.get(key)), _entry(key, value)]
    return "\n".join(lines) + "\n"


def _comment(model: type[BaseModel], field: str, indent: str = "", text: str | None = None) -> Iterator[str]:
    text = text or model.model_fields[field].description or ""
    yield from textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _entry(key: str, value: Any) -> str:
    """A key with its value; a mapping's own values stand on one line each."""
    if not isinstance(value, Mapping) or not value:
        return f"{key}: {_flow(value)}"
    return "\n".join([f"{key}:", *(f"  {_key(name)}: {_flow(entry)}" for name, entry in value.items())])


def _key(name: str) -> str:
    return name if re.fullmatch(r"[a-z_]{3,}", name) and name not in _YAML_WORDS else _flow(name)


def _flow(value: Any) -> str:
    """A value on one line. Texts are in quotes, since YAML reads a bare no or 1e3 as something else."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(name)}: {_flow(entry)}' for name, entry in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    style = '"' if isinstance(value, str) else None
    text = yaml.safe_dump(value, default_style=style, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")
