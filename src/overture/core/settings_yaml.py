"""YAML as people write settings: the safe types, YAML 1.2's plain words, each key once, and few aliases.

Plain words follow YAML 1.2 (section 10.3.2): ``NO``, ``on``, ``12:30`` and ``2024-01-01`` are text, ``1e-3`` is a
number. Deviations: numbers with leading zeros are text, since they are labels or codes, and there are no octal or
hexadecimal numbers.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from overture.core.errors import ConfigError

_FREE_ALIASES, _GROWTH = 10_000, 10


class BoundedLoader(yaml.SafeLoader):
    """Safe types only; aliases may not make a small text a large value."""

    def get_single_node(self) -> Any:
        """The text's node tree.

        Raises:
            yaml.YAMLError: aliases contain themselves, or repeat too much.
        """
        node = super().get_single_node()
        sizes: dict[int, int] = {}
        size = _expanded_size(node, sizes, set()) if node else 0
        if size > _FREE_ALIASES + _GROWTH * len(sizes):
            raise yaml.YAMLError(f"its aliases repeat {len(sizes)} values {size:.1e} times")
        return node


def _expanded_size(node: yaml.Node, sizes: dict[int, int], open_nodes: set[int]) -> int:
    """The number of values below a node if every alias were written out."""
    if id(node) in open_nodes:
        raise yaml.YAMLError("an alias contains itself")
    if id(node) not in sizes:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        open_nodes.add(id(node))
        sizes[id(node)] = 1 + sum(_expanded_size(child, sizes, open_nodes) for child in children)
        open_nodes.remove(id(node))
    return sizes[id(node)]


class _SettingsLoader(BoundedLoader):
    """Words as in YAML 1.2, and every key of a mapping once."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping's values.

        Raises:
            yaml.YAMLError: a key appears twice.
        """
        keys: set[Hashable] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r:.60} appears twice", key_node.start_mark
                )
            keys.add(key)
        return super().construct_mapping(node, deep)


_TYPES = ("map", "seq", "str", "null", "bool", "int", "float")
_SettingsLoader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _TYPES
}
_WORDS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    "merge": (r"<<", ["<"]),
}
for _name, (_pattern, _first) in _WORDS.items():
    _SettingsLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), _first)


def loaded_yaml(text: str, where: str, loader: type[BoundedLoader] = _SettingsLoader) -> Any:
    """The value that a YAML text stands for.

    Args:
        text: the text.
        where: names its source in errors.
        loader: how plain words are read.

    Raises:
        ConfigError: it is no YAML, holds other than safe types, or would grow too large.
    """
    try:
        return yaml.load(text, Loader=loader)
    except RecursionError:
        what, line = "it is nested too deeply", None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what, line = str(error.problem or error.context), mark.line + 1 if mark else None
    except (yaml.YAMLError, ValueError, KeyError) as error:
        # PyYAML leaves the errors of int() and of its own tables as they are.
        what, line = str(error), None
    raise ConfigError(
        "the text cannot be read as YAML",
        where=f"{where}:{line}" if line else where,
        got=what[:200],
        wanted="key: value lines; put texts that hold special signs in quotes",
    )
