"""The part of Jinja that our templates can say: text, `{{ field }}` and constants. It is parsed and never rendered."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, TemplateError, nodes

from overture.core.errors import ConfigError
from overture.data.template import is_field_name

Constants = Mapping[str, list[str]]
_WANTED = "text, {{ field }}, constants"


@dataclass(frozen=True, slots=True)
class Field:
    """A field's value; as an index into a list where one is given.

    Args:
        name: of the field.
        choices: what the field chooses from, `choices[field - first]`, or is searched in.
        first: the number of the first choice.
        is_index: the field is a number that chooses; else it is one of the choices.
    """

    name: str
    choices: tuple[str, ...] | None = None
    first: int = 0
    is_index: bool = True


@dataclass(slots=True)
class Parsed:
    """A template's parts, and what was changed in them."""

    parts: list[str | Field] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parsed(text: str, where: str, constants: Constants | None = None, keep_end: bool = True) -> Parsed:
    """A Jinja template as texts and fields.

    Args:
        text: the template.
        where: the file and key, for errors.
        constants: lists that the template may name, such as `answer_choices`.
        keep_end: a line's end at the very end counts.

    Raises:
        ConfigError: the template says more than we can, or is no Jinja.
    """
    try:
        tree = Environment(keep_trailing_newline=keep_end).parse(text)
    except (TemplateError, RecursionError) as error:
        raise ConfigError("not a Jinja template", where=where, got=str(error)) from None
    reader = _Reader(where, constants or {})
    reader.read(tree.body)
    return reader.found


def as_template(found: Parsed, where: str) -> str:
    """Parts as a template of ours.

    Raises:
        ConfigError: a choice stands in it, or a field that our templates cannot name.
    """
    text = ""
    for part in found.parts:
        if isinstance(part, str):
            text += re.sub(r"[{}]", r"\g<0>\g<0>", part)
        elif part.choices is not None or not is_field_name(part.name):
            raise ConfigError("a template of ours cannot show this", where=where, got=part.name, wanted=_WANTED)
        else:
            text += f"{{{part.name}}}"
    return text


class _Reader:
    def __init__(self, where: str, constants: Constants) -> None:
        self.where, self.constants, self.found = where, constants, Parsed()

    def read(self, body: list[Any]) -> None:
        for node in body:
            if isinstance(node, nodes.Output):
                self.found.parts += [self.part(each) for each in node.nodes]
            elif isinstance(node, nodes.If) and _is_known_label(node):
                self.found.notes.append(f"{self.where}: rows whose label is -1 must be dropped from the data")
                self.read(node.body)
            else:
                raise self.refused(node)

    def refused(self, node: Any, what: str = "") -> ConfigError:
        name = what or type(node).__name__
        return ConfigError(
            "this Jinja cannot be translated",
            where=f"{self.where}, line {node.lineno} of the template",
            got=name,
            wanted=_WANTED,
            fix="write the task file by hand, or compute the field into the data",
        )

    def part(self, node: Any) -> str | Field:
        if isinstance(node, nodes.TemplateData):
            return str(node.data)
        constant = self.constant(node)
        if isinstance(constant, str | int):
            return str(constant)
        if isinstance(node, nodes.Name):
            return Field(node.name)
        if isinstance(node, nodes.Getitem):
            return self.chosen(node)
        return self.searched(node) or self.stripped(node)

    def constant(self, node: Any) -> Any:
        """A text, number or list that is written out; None for anything else."""
        if isinstance(node, nodes.Const) and isinstance(node.value, str | int) and not isinstance(node.value, bool):
            return node.value
        if isinstance(node, nodes.List | nodes.Tuple):
            items = [self.constant(item) for item in node.items]
            return items if items and all(isinstance(item, str) for item in items) else None
        if isinstance(node, nodes.Name):
            return self.constants.get(node.name)
        if isinstance(node, nodes.Getitem):
            choices, index = self.constant(node.node), self.constant(node.arg)
            if isinstance(choices, list) and isinstance(index, int) and 0 <= index < len(choices):
                return choices[index]
        if isinstance(node, nodes.Filter) and node.name == "join" and node.node is not None:
            choices, glue = self.constant(node.node), [self.constant(each) for each in node.args] or [""]
            return glue[0].join(choices) if isinstance(choices, list) and isinstance(glue[0], str) else None
        return None

    def chosen(self, node: nodes.Getitem) -> Field:
        """`answer_choices[label]` or `answer_choices[label - 1]`."""
        choices = self.constant(node.node)
        at: Any = node.arg
        first = 0
        if isinstance(at, nodes.Sub) and isinstance(at.right, nodes.Const) and isinstance(at.right.value, int):
            at, first = at.left, at.right.value
        if not isinstance(choices, list) or not isinstance(at, nodes.Name):
            raise self.refused(node, "a part of a field, or a choice that is computed")
        return Field(at.name, tuple(choices), first)

    def searched(self, node: Any) -> Field | None:
        """`["a", "b"].index(label)`."""
        is_call = isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr == "index"
        if not is_call or len(node.args) != 1 or not isinstance(node.args[0], nodes.Name):
            return None
        choices = self.constant(node.node.node)
        return Field(node.args[0].name, tuple(choices), is_index=False) if isinstance(choices, list) else None

    def stripped(self, node: Any) -> Field:
        """`text.strip()` or `text | trim`: the field, with a note."""
        inner = None
        if isinstance(node, nodes.Filter) and node.name == "trim" and not node.args:
            inner = node.node
        elif isinstance(node, nodes.Call) and not node.args and isinstance(node.node, nodes.Getattr):
            inner = node.node.node if node.node.attr == "strip" else None
        if not isinstance(inner, nodes.Name):
            raise self.refused(node, _described(node))
        self.found.notes.append(f"{self.where}: white space around {inner.name!r} is not cut off as there")
        return Field(inner.name)


def _described(node: Any) -> str:
    kinds: dict[type, Callable[[Any], str]] = {
        nodes.Filter: lambda found: f"the filter {found.name!r}",
        nodes.Call: lambda found: "a call",
        nodes.Getattr: lambda found: f"a part of a field (.{found.attr})",
        nodes.CondExpr: lambda found: "a condition",
    }
    return kinds.get(type(node), lambda found: type(found).__name__)(node)


def _is_known_label(node: nodes.If) -> bool:
    """`{% if label != -1 %}`, around what a row without a label must not show."""
    test = node.test
    if node.else_ or node.elif_ or not isinstance(test, nodes.Compare) or not isinstance(test.expr, nodes.Name):
        return False
    if len(test.ops) != 1 or test.ops[0].op != "ne":
        return False
    value = test.ops[0].expr
    return isinstance(value, nodes.Neg) and isinstance(value.node, nodes.Const) and value.node.value == 1
