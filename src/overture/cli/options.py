"""Options that several commands share, and flags derived from the fields that they set."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from overture.cli.out import say
from overture.core.config import Config
from overture.core.errors import StoreError
from overture.core.files import store_dir
from overture.core.records.shares import Doubt
from overture.engine.options import EMBEDDED

if TYPE_CHECKING:
    from overture.store.store import Store

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="DIR", help="Where prompts and runs are kept; OVERTURE_HOME or .overture if not given."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def stored_names(incomplete: str) -> list[str]:
    """Names of stored prompts that a shell may complete."""
    return _folders(store_dir() / "prompts", incomplete)


def run_names(incomplete: str) -> list[str]:
    """Names of runs that a shell may complete."""
    return _folders(store_dir() / "runs", incomplete)


def _folders(root: Path, start: str) -> list[str]:
    return sorted(path.name for path in root.glob("*") if path.is_dir() and path.name.startswith(start))


PromptArgument = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT", help="A prompt: its name, name@version, or its folder.", autocompletion=stored_names
    ),
]
RowsTaskArgument = Annotated[
    Path | None,
    typer.Argument(metavar="TASK.yaml", help="Says where the rows are; the prompt's own run says it if not given."),
]
DriftOption = Annotated[
    bool,
    typer.Option(
        "--allow-drift", help="Accept another config, tokenizer, chat template or revision around the same weights."
    ),
]
CalibratedOption = Annotated[
    bool,
    typer.Option(
        "--calibrated", help="Divide a label's probability by what it has for rows without content (Zhao et al. 2021)."
    ),
]


def store_root(store: Path | None) -> Path:
    """The store's folder, or the default one if None.

    Raises:
        StoreError: there is a file in its place.
    """
    root = (store or store_dir()).absolute()
    if root.exists() and not root.is_dir():
        raise StoreError("the store is not a folder", where=str(root), fix="name a folder with --store")
    return root


def open_store(store: Path | None) -> "Store":
    """The store of prompts and runs; what it has to say goes to standard error.

    Raises:
        StoreError: there is a file in its place.
    """
    from overture.store.store import Store

    return Store(store_root(store), say)


def store_flag(store: Path | None) -> str:
    """The flag that makes another command use the same store."""
    import shlex

    return f" --store {shlex.quote(str(store))}" if store else ""


class FlagValues(dict[tuple[type[Config], str], Any]):
    """Values of a command's flags, by config and field; None for flags left out."""

    def of(self, model: type[Config]) -> dict[str, Any]:
        """The flags of one config that the user set, by the dotted key of the field, without ``task.``."""
        return {
            path.removeprefix("task."): list(value) if isinstance(value, tuple) else value
            for (owner, path), value in self.items()
            if owner is model and value not in (None, [])
        }


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of a command that sets one field of a config."""

    model: type[Config]
    path: str
    parameter: inspect.Parameter


def flag(
    model: type[Config],
    path: str,
    name: str = "",
    *,
    metavar: str | None = None,
    default: Any = None,
    shown_default: str = "",
) -> Flag:
    """A flag that sets a field: its help, type, choices and default are those of the field.

    Args:
        model: the config.
        path: the field, through nested configs: ``prompt.length``.
        name: such as ``--way``; from the field's name when empty.
        metavar: what the help calls a value; by its type when None.
        default: the value for this command where the flag is left out; the field's own when None.
        shown_default: what the help calls the default, where the command's task file says another than the field.
    """
    field = field_of(model, path)
    declared, help_text = _flag_type(field.annotation), field.description or ""
    if declared.is_repeatable:
        help_text += " Repeatable."
    if default is None and (default_text := shown_default or _shown_default(model, path)):
        help_text += f" Default: {default_text}."
    identifier = path.replace(".", "_")
    own_name = path.rpartition(".")[2]
    option: Any = typer.Option(
        name or f"--{own_name.replace('_', '-')}",
        metavar=metavar or _METAVARS.get(own_name) or declared.metavar,
        help=help_text,
        show_default=default is not None,
        autocompletion=_completion(own_name, field),
    )
    annotation = Annotated[declared.type | None, option] if default is None else Annotated[declared.type, option]
    return Flag(model, path, _parameter(identifier, default, annotation))


_METAVARS = {"backbone": "MODEL", "method": "METHOD", "name": "NAME", "template": "TEXT", "init": "START"}


def _completion(name: str, field: FieldInfo) -> Callable[[str], list[str]] | None:
    """The values that a shell may complete: methods, or the choices of a field."""

    if name == "method":
        return method_names
    if name in ("ways", "reference"):
        return way_names
    choices = list(EMBEDDED) if name == "backbone" else _choices(field.annotation)

    def completed(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return completed if choices else None


def way_names(incomplete: str) -> list[str]:
    """Names of ways that a comparison can run."""
    from overture.jobs.compare.ways import WAYS

    return [name for name in WAYS if name.startswith(incomplete)]


def method_names(incomplete: str) -> list[str]:
    """Names of methods that a shell may complete."""
    from overture.prompt.methods import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def _choices(annotation: Any) -> list[str]:
    """The words that a field allows; empty where it allows others."""
    (kind, *_) = _kinds(annotation)
    if get_origin(kind) is tuple:
        return _choices(get_args(kind)[0])
    return [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else []


def with_flags(*flags: Flag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags, in place of its parameter ``flag_values``, which holds their values."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        declared = inspect.signature(command, eval_str=True).parameters

        @functools.wraps(command)
        def run(**values: Any) -> None:
            flag_values = FlagValues({(item.model, item.path): values.pop(item.parameter.name) for item in flags})
            command(flag_values=flag_values, **values)

        places = [
            [item.parameter for item in flags] if name == "flag_values" else [declared[name]] for name in declared
        ]
        parameters = [_parameter(p.name, p.default, p.annotation) for place in places for p in place]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.flags = flags  # type: ignore[attr-defined]
        return run

    return decorate


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def field_of(model: type[BaseModel], path: str) -> FieldInfo:
    """A field of a config or of one inside it, by its dotted path."""
    *outer, name = path.split(".")
    for part in outer:
        model = next(kind for kind in _kinds(model.model_fields[part].annotation) if issubclass(kind, BaseModel))
    return model.model_fields[name]


@dataclass(frozen=True, slots=True)
class _FlagType:
    type: Any
    metavar: str
    is_repeatable: bool = False


def _flag_type(annotation: Any) -> _FlagType:
    """The type of a flag, and what the help calls a value; the whole request checks the value."""
    kinds = _kinds(annotation)
    origin, inner = get_origin(kinds[0]), get_args(kinds[0])
    if origin is tuple and inner[-1] is Ellipsis:
        item = _flag_type(inner[0])
        return _FlagType(GenericAlias(list, (item.type,)), item.metavar, is_repeatable=True)
    if origin is tuple:
        parts = [_flag_type(part) for part in inner]
        return _FlagType(GenericAlias(tuple, tuple(part.type for part in parts)), " ".join(p.metavar for p in parts))
    if origin is Literal:
        return _FlagType(str, "|".join(map(str, inner)))
    return _FlagType(kinds[0], {int: "N", float: "X", bool: ""}.get(kinds[0], "TEXT"))


def _kinds(annotation: Any) -> list[Any]:
    """The types that a field may have, without None and without constraints."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) if part is not type(None) for kind in _kinds(part)]
    return [annotation]


def allowed_values(annotation: Any) -> str:
    """The values that a field may have: words apart by bars, or the name of a type."""
    names = {int: "whole number", float: "number", bool: "true | false", str: "text", type(None): "none"}
    if get_origin(annotation) is Annotated:
        return allowed_values(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(dict.fromkeys(allowed_values(part) for part in get_args(annotation)))
    if get_origin(annotation) in (tuple, list):
        return f"list of {allowed_values(get_args(annotation)[0])}"
    return names.get(annotation, "any value")


def _shown_default(model: type[BaseModel], path: str) -> str:
    """The value of a field that is left out, as the help shows it; empty where there is none."""
    outer, _, name = path.rpartition(".")
    if outer and field_of(model, outer).default is None:
        # A section that is not there unless it is asked for has no values.
        return ""
    field = field_of(model, path)
    default = field_of(model, outer).get_default(call_default_factory=True) if outer else None
    value = getattr(default, name) if isinstance(default, BaseModel) else field.default
    if value in (None, "", (), PydanticUndefined) or field.default_factory:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


DOUBT_FLAGS = (flag(Doubt, "coverage"), flag(Doubt, "abstain"))

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the task file, such as train.lr=0.01. Repeatable."),
]
TrainSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other option, such as train.epochs=10. Repeatable."),
]
