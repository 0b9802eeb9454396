"""Task files as they are on disk: YAML or JSON, with paths that are relative to their folder."""

from pathlib import Path
from typing import Any

from overture.core.config import read_yaml
from overture.core.errors import ConfigError
from overture.data.read import SUFFIXES

PATHS = ("train", "validation", "test", "path", "more", "root")
"""Keys of ``data`` that are paths."""


def task_file_values(path: Path) -> dict[str, Any]:
    """The values of a task file, with the data's paths made absolute.

    Raises:
        ConfigError: the file cannot be read, or holds rows.
    """
    if path.is_dir():
        fix = f"name the file in it; overture init {path} writes one for a folder of rows"
        raise ConfigError("this is a folder, not a task file", where=str(path), wanted="a task file (.yaml)", fix=fix)
    # A task file may be JSON as well; what such a file holds tells.
    if path.suffix.lower() in SUFFIXES and path.suffix.lower() != ".json" and path.is_file():
        raise ConfigError(
            "this is a data file, not a task file",
            where=str(path),
            wanted="a task file (.yaml)",
            fix=f"write one: overture init {path}",
        )
    values = read_yaml(path)
    data = values.get("data")
    if not isinstance(data, dict):
        return values
    paths = {
        name: resolved_path(data[name], f"data.{name}", path.parent)
        for name in PATHS
        if isinstance(data.get(name), str)
    }
    return {**values, "data": {**data, **paths}}


def resolved_path(text: str, where: str, folder: Path | None = None) -> str:
    """A path made absolute; relative ones start at the folder, or at the working folder if None.

    Raises:
        ConfigError: no system has such a path.
    """
    try:
        text.encode()
        return str((folder or Path()).joinpath(Path(text).expanduser()).resolve())
    except (ValueError, RuntimeError, OSError) as error:
        # A zero byte or half a character; the home of an unknown user; links in a circle.
        raise ConfigError("this is no path", where=where, got=repr(text)[:80], wanted=f"a file ({error})") from None
