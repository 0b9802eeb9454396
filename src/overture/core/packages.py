"""The packages that Overture's own metadata requires, by extra, and how to install those of one."""

from collections.abc import Iterator
from importlib import metadata
from shlex import quote
from typing import Any


def requirements() -> Iterator[tuple[Any, str]]:
    """Each requirement, of `packaging`, with the extra that needs it; the empty name for those always needed."""
    # packaging comes with transformers.
    from packaging.requirements import Requirement

    extras = metadata.metadata("overture").get_all("Provides-Extra") or []
    for line in metadata.requires("overture") or []:
        requirement = Requirement(line)
        marker, requirement.marker = requirement.marker, None
        if marker is None or marker.evaluate({"extra": ""}):
            yield requirement, ""
        else:
            yield from ((requirement, extra) for extra in extras if marker.evaluate({"extra": extra}))


def install(extra: str) -> str:
    """The command that installs an extra's packages; they are named, so it needs no copy of Overture."""
    return " ".join(
        ["pip install", *(quote(str(requirement)) for requirement, wanted_by in requirements() if wanted_by == extra)]
    )
