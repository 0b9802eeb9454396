"""The part of Jinja that our templates can say: text, `{{ field }}` and constants. It is parsed and never rendered."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, TemplateError, nodes

from overture.core.errors import ConfigError
from overture.data.template import column_of, is_field_name

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
        within: instead of `choices` a list of the row's own, as `list_of_row` names it.
    """

    name: str
    choices: tuple[str, ...] | None = None
    first: int = 0
    is_index: bool = True
    within: str | None = None

    @property
    def is_chosen(self) -> bool:
        """Whether the field means an entry of a list, and not its own value."""
        return self.choices is not None or self.within is not None


@dataclass(slots=True)
class Parsed:
    """A template's parts, and what was changed in them."""

    parts: list[str | Field] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parsed(
    text: str, where: str, constants: Constants | None = None, keep_end: bool = True, own: str | None = None
) -> Parsed:
    """A Jinja template as texts and fields.

    Args:
        text: the template.
        where: the file and key, for errors.
        constants: lists that the template may name, such as `answer_choices`.
        keep_end: a line's end at the very end counts.
        own: the row's own list that `answer_choices` stands for.

    Raises:
        ConfigError: the template says more than we can, or is no Jinja.
    """
    try:
        tree = Environment(keep_trailing_newline=keep_end).parse(text)
    except (TemplateError, RecursionError) as error:
        raise ConfigError("not a Jinja template", where=where, got=str(error)) from None
    reader = _Reader(where, constants or {}, own)
    reader.read(tree.body)
    return reader.found


def list_of_row(text: str, glue: str | None = None) -> str | None:
    """The row's own list that a template shows, as `field` or `field.part`; None where it shows anything else.

    Args:
        text: the template.
        glue: what the list's entries are joined by, where the template must join them.
    """
    try:
        body: list[Any] = Environment().parse(text).body
    except (TemplateError, RecursionError):
        return None
    shown = body[0].nodes if len(body) == 1 and isinstance(body[0], nodes.Output) else []
    node = shown[0] if len(shown) == 1 else None
    return _path(node if glue is None else _joined(node, glue))


def _joined(node: Any, glue: str) -> Any:
    """What a template joins by a text; None where it does not."""
    if not isinstance(node, nodes.Filter) or node.name != "join":
        return None
    texts = [str(each.value).strip() for each in node.args if isinstance(each, nodes.Const)]
    return node.node if texts == [glue] else None


def _path(node: Any) -> str | None:
    """`field`, `field.part` and `field["part"]` with a dot."""
    if isinstance(node, nodes.Name):
        return node.name
    part = node.attr if isinstance(node, nodes.Getattr) else None
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
        part = node.arg.value
    return f"{node.node.name}.{part}" if part and isinstance(node.node, nodes.Name) else None


def as_template(found: Parsed, where: str) -> str:
    """Parts as a template of ours.

    Raises:
        ConfigError: a choice stands in it, or a field that our templates cannot name.
    """
    text = ""
    for part in found.parts:
        if isinstance(part, str):
            text += re.sub(r"[{}]", r"\g<0>\g<0>", part)
        elif part.is_chosen or not is_field_name(column_of(part.name)[0]):
            raise ConfigError("a template of ours cannot show this", where=where, got=part.name, wanted=_WANTED)
        else:
            text += f"{{{part.name}}}"
    return text


class _Reader:
    def __init__(self, where: str, constants: Constants, own: str | None) -> None:
        self.where, self.constants, self.own, self.found = where, constants, own, Parsed()

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
        shown = self.shown(node)
        if shown is not None:
            return Field(shown)
        if isinstance(node, nodes.Getitem):
            return self.chosen(node)
        return self.searched(node) or self.stripped(node)

    def shown(self, node: Any) -> str | None:
        """A field, or an entry of one that is a list, as our templates name it; None for anything else."""
        if isinstance(node, nodes.Name):
            return node.name
        if not isinstance(node, nodes.Getitem) or not isinstance(node.arg, nodes.Const):
            return None
        entry, inner = node.arg.value, node.node
        is_entry = isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
        is_own = self.own is not None and isinstance(inner, nodes.Name) and inner.name == "answer_choices"
        return f"{inner.name}[{entry}]" if is_entry and isinstance(inner, nodes.Name) and not is_own else None

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
        """`answer_choices[label]` or `answer_choices[label - 1]`; of a row's own also by a search in the row."""
        choices = self.constant(node.node)
        at: Any = node.arg
        is_own = self.own is not None and isinstance(node.node, nodes.Name) and node.node.name == "answer_choices"
        found = self.searched(at) if is_own else None
        if found:
            return found
        first = 0
        if isinstance(at, nodes.Sub) and isinstance(at.right, nodes.Const) and isinstance(at.right.value, int):
            at, first = at.left, at.right.value
        if isinstance(at, nodes.Filter) and at.name == "int" and not at.args:
            at = at.node
        if not (is_own or isinstance(choices, list)) or not isinstance(at, nodes.Name):
            raise self.refused(node, "a part of a field, or a choice that is computed")
        return Field(at.name, within=self.own, first=first) if is_own else Field(at.name, tuple(choices), first)

    def searched(self, node: Any) -> Field | None:
        """`["a", "b"].index(label)`, or `choices.label.index(answer)` in a list of the row's own."""
        is_call = isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr == "index"
        if not is_call or len(node.args) != 1:
            return None
        choices, within = self.constant(node.node.node), _path(node.node.node)
        name = self.name(node.args[0]) if within or isinstance(choices, list) else None
        if name is None:
            return None
        if isinstance(choices, list):
            return Field(name, tuple(choices), is_index=False)
        return Field(name, is_index=False, within=self.own if within == "answer_choices" else within)

    def stripped(self, node: Any) -> Field:
        """`text.strip()` or `text | trim`: the field, with a note."""
        name = self.name(node)
        if name is None:
            raise self.refused(node, _described(node))
        return Field(name)

    def name(self, node: Any) -> str | None:
        """A field's name, with a note where its white space is cut off; None for anything else."""
        inner = None
        if isinstance(node, nodes.Filter) and node.name == "trim" and not node.args:
            inner = node.node
        elif isinstance(node, nodes.Call) and not node.args and isinstance(node.node, nodes.Getattr):
            inner = node.node.node if node.node.attr in ("strip", "lstrip", "rstrip") else None
        shown = None if inner is None else self.shown(inner)
        if shown is not None:
            self.found.notes.append(f"{self.where}: white space around {shown!r} is not cut off as there")
        return shown or self.shown(node)


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
