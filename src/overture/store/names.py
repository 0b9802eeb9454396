"""Names of prompts: an allowlist, so that no name can point outside the store."""

import re
from dataclasses import dataclass
from pathlib import Path

from overture.core.errors import WrongName

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_VERSION = re.compile(r"v?([1-9][0-9]{0,8})")
_ALIAS = re.compile(r"(?!v[0-9]+$)[a-z][a-z0-9_-]{0,31}")
# Windows opens a device for these, whatever follows the first dot.
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})


@dataclass(frozen=True, slots=True)
class Ref:
    """A prompt in a store: a name, and a version, or None for all of them or the latest, or an alias of a version."""

    name: str
    version: int | None
    alias: str = ""

    def __str__(self) -> str:
        return "@".join(filter(None, [self.name, self.alias or str(self.version or "")]))


def ref_of(folder: Path) -> Ref:
    """The name and version of a prompt that the store has put there."""
    return Ref(folder.parent.name, int(folder.name.removeprefix("v")))


def checked_name(name: str) -> str:
    """The name, if it is one.

    Raises:
        WrongName: it could be a path, a device, or hard to type.
    """
    if not is_name(name):
        raise WrongName(
            "this is no name for a prompt",
            got=f"{name!r:.100}",
            wanted="1 to 64 of a-z 0-9 _ . - , a letter or digit first, no '..', no device name",
            fix="choose a name such as movie-reviews",
        )
    return name


def is_name(text: str) -> bool:
    """Whether a prompt may be called so, on every system."""
    is_allowed = _NAME.fullmatch(text) is not None and ".." not in text and not text.endswith(".")
    return is_allowed and text.partition(".")[0] not in _RESERVED


def parsed_ref(text: str) -> Ref:
    """``name``, ``name@version`` or ``name@alias``.

    Raises:
        WrongName: the name, the version or the alias is wrong.
    """
    name, separator, version = text.partition("@")
    match = _VERSION.fullmatch(version)
    if separator and not match:
        return Ref(checked_name(name), None, checked_alias(version))
    return Ref(checked_name(name), int(match[1]) if match else None)


def checked_alias(text: str) -> str:
    """The text, if a version may be called so.

    Raises:
        WrongName: it could be a number of a version, or is hard to type.
    """
    if not _ALIAS.fullmatch(text):
        forms = "a number from 1, such as movie@2, or an alias of a-z 0-9 _ - with a letter first, such as movie@prod"
        raise WrongName("this is no version", got=f"{text!r:.100}", wanted=forms)
    return text


def is_path(ref: str | Path) -> bool:
    """Whether a reference is a folder's path and not a name."""
    return isinstance(ref, Path) or "/" in ref or "\\" in ref or ref in (".", "..")


def version_of(folder_name: str) -> int | None:
    """The version that a folder's name tells, or None."""
    match = _VERSION.fullmatch(folder_name)
    return int(match[1]) if match and folder_name.startswith("v") else None
