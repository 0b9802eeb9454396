"""The part of Jinja that our templates can express: text, `{{ field }}` and constants. It is parsed, never rendered."""

import re
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, TemplateError, nodes

from overture.core.errors import ConfigError
from overture.data.template import column_of, is_field_name

_WANTED = "text, {{ field }}, constants"


@dataclass(frozen=True, slots=True)
class Field:
    """The value of a field, or the entry of a list that the field selects.

    Args:
        name: the field.
        choices: a constant list from which the field selects, by number or by value.
        is_index: the field holds the number of an entry; otherwise the entry itself.
        within: a list of the row's own, as `list_of_row` names it, in which the field is searched.
    """

    name: str
    choices: tuple[str, ...] | None = None
    is_index: bool = True
    within: str | None = None

    @property
    def is_chosen(self) -> bool:
        """Whether the field stands for an entry of a list instead of its own value."""
        return self.choices is not None or self.within is not None


@dataclass(slots=True)
class Parsed:
    """The texts and fields of a template, in order, with notes on what the translation changes."""

    parts: list[str | Field] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parsed(text: str, where: str) -> Parsed:
    """Parse a Jinja template into texts and fields.

    Args:
        text: the template.
        where: the file and key, for errors.

    Raises:
        ConfigError: the text is no Jinja, or uses more of it than our templates can express.
    """
    try:
        body = Environment(keep_trailing_newline=True).parse(text).body
    except (TemplateError, RecursionError) as error:
        raise ConfigError("not a Jinja template", where=where, got=str(error)) from None
    reader = _Reader(where)
    for node in body:
        if not isinstance(node, nodes.Output):
            raise reader.refused(node, type(node).__name__)
        reader.template.parts += [reader.part(inner) for inner in node.nodes]
    return reader.template


def list_of_row(text: str) -> str | None:
    """The list of the row's own that a template shows, as `field` or `field.part`; None for anything else."""
    try:
        body: list[Any] = Environment().parse(text).body
    except (TemplateError, RecursionError):
        return None
    output = body[0].nodes if len(body) == 1 and isinstance(body[0], nodes.Output) else []
    return _path(output[0]) if len(output) == 1 else None


def only_field(template: Parsed) -> Field | None:
    """The field of a template that shows one whole field and otherwise only white space."""
    fields = [part for part in template.parts if isinstance(part, Field)]
    texts = [part for part in template.parts if isinstance(part, str) and part.strip()]
    is_whole = len(fields) == 1 and column_of(fields[0].name)[1] is None
    return fields[0] if is_whole and not texts else None


def as_template(template: Parsed, where: str) -> str:
    """A parsed template in our notation.

    Raises:
        ConfigError: it contains a choice, or a field that our templates cannot name.
    """
    text = ""
    for part in template.parts:
        if isinstance(part, str):
            text += re.sub(r"[{}]", r"\g<0>\g<0>", part)
        elif part.is_chosen or not is_field_name(column_of(part.name)[0]):
            raise ConfigError("Overture's templates cannot show this", where=where, got=part.name, wanted=_WANTED)
        else:
            text += f"{{{part.name}}}"
    return text


class _Reader:
    def __init__(self, where: str) -> None:
        self.where, self.template = where, Parsed()

    def refused(self, node: Any, description: str) -> ConfigError:
        return ConfigError(
            "this Jinja cannot be translated",
            where=f"{self.where}, line {node.lineno} of the template",
            got=description,
            wanted=_WANTED,
            fix="write the task file by hand, or compute the field into the data",
        )

    def part(self, node: Any) -> str | Field:
        if isinstance(node, nodes.TemplateData):
            return str(node.data)
        constant = _constant(node)
        if isinstance(constant, str | int):
            return str(constant)
        choice = self.selected(node)
        if choice is not None:
            return choice
        name = self.name(node)
        if name is None:
            raise self.refused(node, _described(node))
        return Field(name)

    def selected(self, node: Any) -> Field | None:
        """`["a", "b"][label]`, `["a", "b"].index(label)` or `choices.label.index(answer)`; None for anything else."""
        if isinstance(node, nodes.Getitem) and isinstance(choices := _constant(node.node), list):
            index: Any = node.arg
            if isinstance(index, nodes.Filter) and index.name == "int" and not index.args:
                index = index.node
            return Field(index.name, tuple(choices)) if isinstance(index, nodes.Name) else None
        is_call = isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr == "index"
        if not is_call or len(node.args) != 1:
            return None
        choices, within = _constant(node.node.node), _path(node.node.node)
        name = self.name(node.args[0]) if within or isinstance(choices, list) else None
        if name is None:
            return None
        if isinstance(choices, list):
            return Field(name, tuple(choices), is_index=False)
        return Field(name, is_index=False, within=within)

    def name(self, node: Any) -> str | None:
        """The name of a field or of one entry of it; `text.strip()` and `text | trim` are noted."""
        inner = None
        if isinstance(node, nodes.Filter) and node.name == "trim" and not node.args:
            inner = node.node
        elif isinstance(node, nodes.Call) and not node.args and isinstance(node.node, nodes.Getattr):
            inner = node.node.node if node.node.attr in ("strip", "lstrip", "rstrip") else None
        name = None if inner is None else _field_name(inner)
        if name is not None:
            self.template.notes.append(f"{self.where}: white space around {name!r} is kept; the harness strips it")
        return name or _field_name(node)


def _field_name(node: Any) -> str | None:
    """`field`, or `field[3]` for one entry of a list; None for anything else."""
    if isinstance(node, nodes.Name):
        return node.name
    if not isinstance(node, nodes.Getitem) or not isinstance(node.arg, nodes.Const):
        return None
    entry = node.arg.value
    is_entry = isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
    return f"{node.node.name}[{entry}]" if is_entry and isinstance(node.node, nodes.Name) else None


def _path(node: Any) -> str | None:
    """`field`, or `field.part` for `field.part` and `field["part"]`; None for anything else."""
    if isinstance(node, nodes.Name):
        return node.name
    part = node.attr if isinstance(node, nodes.Getattr) else None
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
        part = node.arg.value
    return f"{node.node.name}.{part}" if part and isinstance(node.node, nodes.Name) else None


def _constant(node: Any) -> Any:
    """A text, number or list of texts written into the template; None for anything else."""
    if isinstance(node, nodes.Const) and isinstance(node.value, str | int) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, nodes.List | nodes.Tuple):
        items = [_constant(item) for item in node.items]
        return items if items and all(isinstance(item, str) for item in items) else None
    return None


def _described(node: Any) -> str:
    if isinstance(node, nodes.Filter):
        return f"the filter {node.name!r}"
    if isinstance(node, nodes.Getattr):
        return f"a part of a field (.{node.attr})"
    names = {
        nodes.Getitem: "a part of a field, or a choice that is computed",
        nodes.Call: "a call",
        nodes.CondExpr: "a condition",
    }
    return names.get(type(node), type(node).__name__)
