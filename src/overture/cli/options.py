"""Options that several commands share, and flags derived from the fields that they set."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from overture.core.config import Config
from overture.core.errors import StoreError

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="DIR", help="Where prompts and runs are kept; OVERTURE_HOME or .overture if not given."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
PromptArgument = Annotated[
    str, typer.Argument(metavar="PROMPT", help="A prompt: its name, name@version, or its folder.")
]
DriftOption = Annotated[
    bool,
    typer.Option("--allow-drift", help="Accept another tokenizer, chat template or revision around the same weights."),
]
CalibratedOption = Annotated[
    bool,
    typer.Option(
        "--calibrated", help="Divide a label's probability by what it has for rows without content (Zhao et al. 2021)."
    ),
]


def store_root(given: Path | None) -> Path:
    """The store's folder: the one given, or the default.

    Raises:
        StoreError: there is a file in its place.
    """
    from overture.core.files import store_dir

    root = given or store_dir()
    if root.exists() and not root.is_dir():
        raise StoreError("the store is not a folder", where=str(root), fix="name a folder with --store")
    return root


def local(backbone: str) -> str:
    """A folder or file in the working directory by its whole path: the prompt is used from elsewhere too.

    Links stay: a model is shown by the name that its user gave it.
    """
    if backbone.startswith((".", "~")) or Path(backbone).exists():
        return os.path.abspath(Path(backbone).expanduser())
    return backbone


def store_flag(given: Path | None) -> str:
    """The flag that makes another command use the same store."""
    import shlex

    return f" --store {shlex.quote(str(given))}" if given else ""


class Given(dict[tuple[type[Config], str], Any]):
    """The values of a command's flags, by the config and the field that they set; those left out are None."""

    def of(self, model: type[Config]) -> dict[str, Any]:
        """The flags that were given for one config, by the dotted key of the field; a task's keys need no ``task.``."""
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


def flag(model: type[Config], path: str, name: str = "", *, metavar: str | None = None, default: Any = None) -> Flag:
    """A flag that sets a field: its help, type, choices and default are those of the field.

    Args:
        model: the config.
        path: the field, through nested configs: ``prompt.length``.
        name: such as ``--way``; from the field's name when empty.
        metavar: what the help calls a value; by its type when None.
        default: the value for this command where the flag is left out; the field's own when None.
    """
    field = field_of(model, path)
    declared, help_text = _flag_type(field.annotation), field.description or ""
    if declared.is_repeatable:
        help_text += " Repeatable."
    option: Any = typer.Option(
        name or f"--{path.rpartition('.')[2].replace('_', '-')}",
        metavar=metavar or declared.metavar,
        help=help_text,
        show_default=_shown_default(field) if default is None else True,
    )
    identifier = path.replace(".", "_")
    annotation = Annotated[declared.type | None, option] if default is None else Annotated[declared.type, option]
    return Flag(model, path, _parameter(identifier, default, annotation))


def with_flags(*flags: Flag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags, in place of its parameter ``given``, which gets their values as `Given`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        declared = inspect.signature(command, eval_str=True).parameters

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = Given({(item.model, item.path): values.pop(item.parameter.name) for item in flags})
            for key, value in given.items():
                if key[1].endswith("backbone") and value:
                    given[key] = local(value)
            command(given=given, **values)

        places = [[item.parameter for item in flags] if name == "given" else [declared[name]] for name in declared]
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
    metavar: str | None = None
    is_repeatable: bool = False


def _flag_type(annotation: Any) -> _FlagType:
    """The type of a flag, and its metavar where there are choices; the whole request checks the value."""
    kinds = _kinds(annotation)
    origin, inner = get_origin(kinds[0]), get_args(kinds[0])
    if origin is tuple and inner[-1] is Ellipsis:
        item = _flag_type(inner[0])
        return _FlagType(GenericAlias(list, (item.type,)), item.metavar, is_repeatable=True)
    if origin is tuple:
        return _FlagType(GenericAlias(tuple, tuple(_flag_type(part).type for part in inner)))
    if origin is Literal:
        return _FlagType(str, "|".join(map(str, inner)))
    return _FlagType(kinds[0])


def _kinds(annotation: Any) -> list[Any]:
    """The types that a field may have, without None and without constraints."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) if part is not type(None) for kind in _kinds(part)]
    return [annotation]


def _shown_default(field: FieldInfo) -> str | bool:
    default = field.default
    if isinstance(default, bool) or default in (None, "", (), PydanticUndefined) or field.default_factory:
        return False
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the task file, such as train.lr=0.01. Repeatable."),
]
