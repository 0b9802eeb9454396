"""Prompt methods from outside: a Python file that the user names, or an installed package's entry point.

Both are code that runs, so only what the user named or installed is loaded. A stored prompt holds the name of its
plug-in only for the error message where it is missing.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_args

from overture.core.config import Config
from overture.core.errors import ConfigError, Problem
from overture.core.injection import Place
from overture.prompt.method import Method

GROUP = "overture.methods"
"""The entry points' group: each gives a `Method`, or several in a tuple or list."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MANIFEST = "prompt.json"
_MODULE = "overture_plugin_"
_log = logging.getLogger(__name__)


def add_file(methods: dict[str, Method], path: Path) -> list[str]:
    """Add the methods of a plug-in file to a catalogue.

    Args:
        methods: the catalogue.
        path: a Python file with ``METHOD`` or ``METHODS``, and with ``build(request)`` where a record names no other
            module for it.

    Returns:
        The names of its methods.

    Raises:
        ConfigError: the file cannot be loaded, lies in a prompt's folder, or its records are wrong.
    """
    path = Path(path).expanduser().resolve()
    if not path.is_file():
        raise ConfigError("no such plug-in", where=str(path), wanted="a Python file", fix="check the path")
    if (path.parent / _MANIFEST).exists():
        raise ConfigError(
            "a plug-in is never loaded from a prompt's folder",
            where=str(path),
            fix="read it, and copy it elsewhere if you trust it",
        )
    name = f"{_MODULE}{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if not (spec := spec_from_file_location(name, path)) or not spec.loader:
        raise ConfigError("a plug-in is a Python file", where=str(path), wanted="a name that ends with .py")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else "")
        raise ConfigError(
            "the plug-in cannot be loaded", where=f"{path}:{line}", got=f"{type(error).__name__}: {error}"
        ) from error
    exported = getattr(module, "METHODS", None) or getattr(module, "METHOD", None)
    records = [
        replace(record, module=record.module or module.__name__, plugin=path.name)
        for record in _records(exported, str(path))
    ]
    if missing := [
        record.name
        for record in records
        if record.module == module.__name__ and not callable(getattr(module, "build", None))
    ]:
        raise ConfigError(
            "the plug-in has no function that builds its method",
            where=str(path),
            got=", ".join(missing),
            wanted="build(request), which gives a PromptModule",
        )
    _add(methods, records, str(path))
    return [record.name for record in records]


def loaded_files() -> list[Path]:
    """The plug-in files that were loaded here, for other processes that do the same work."""
    modules = [module for name, module in sys.modules.items() if name.startswith(_MODULE)]
    return [Path(module.__file__) for module in modules if module.__file__]


def add_installed(methods: dict[str, Method]) -> None:
    """Add the methods of installed packages to a catalogue; one that cannot be loaded is logged and left out."""
    for point in entry_points(group=GROUP):
        try:
            plugin = f"{point.dist.name} {point.dist.version}" if point.dist else ""
            records = [
                replace(record, module=record.module or point.module, plugin=plugin)
                for record in _records(point.load(), point.value)
            ]
            _add(methods, records, point.value)
        except Exception as error:
            _log.warning("the methods of entry point %s (%s) cannot be loaded: %s", point.name, point.value, error)


def _records(exported: Any, where: str) -> list[Method]:
    records = list(exported) if isinstance(exported, Iterable) else [exported]
    if not records or not all(isinstance(record, Method) for record in records):
        raise ConfigError(
            "the plug-in names no method",
            where=where,
            got=type(exported).__name__,
            wanted="METHOD, an overture.prompt.method.Method, or METHODS, several of them",
        )
    problems = [Problem(str(record.name), what) for record in records if (what := _mistake(record))]
    if problems:
        raise ConfigError("the record of a method is wrong", where=where, problems=problems)
    return records


def _mistake(record: Method) -> str:
    if not isinstance(record.name, str) or not _NAME.fullmatch(record.name):
        return "the name must be 1 to 32 of a-z 0-9 _, a letter first"
    if not (isinstance(record.options, type) and issubclass(record.options, Config)):
        return "options must be a subclass of overture.core.config.Config"
    if bad_places := [place for place in record.places if place not in get_args(Place)] or not record.places:
        return f"places {bad_places}: wanted some of {', '.join(get_args(Place))}"
    if places_without_rate := [place for place in record.places if not record.learning_rate.get(place)]:
        return f"learning_rate is missing for {', '.join(places_without_rate)}"
    return ""


def _add(methods: dict[str, Method], records: list[Method], where: str) -> None:
    clashes = [
        Problem(record.name, f"is a method of {methods[record.name].plugin or 'Overture'} already", "take another name")
        for record in records
        if record.name in methods and methods[record.name].module != record.module
    ]
    if clashes:
        raise ConfigError("a plug-in cannot replace a method", where=where, problems=clashes)
    methods.update({record.name: record for record in records})
