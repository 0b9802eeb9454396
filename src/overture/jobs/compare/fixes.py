"""Fixes of errors in the words of a comparison, which names a method and a place together as a way."""

import re

from overture.jobs.compare.ways import Prompt, Way
from overture.prompt.methods import METHODS

_METHOD = re.compile(r"--method (\w+)(?: --place (\w+))?")
_PLACE = re.compile(r"--place (\w+)")


def named_as_ways(fix: str, way: Way) -> str:
    """A fix that names ways where it named options of ``overture tune``.

    Args:
        fix: such as ``--place memory``.
        way: the way that does not fit.
    """
    if not isinstance(way, Prompt):
        return fix
    prompt = way.config.prompt

    def other_method(match: re.Match[str]) -> str:
        places = METHODS[match[1]].places if match[1] in METHODS else (prompt.place,)
        place = match[2] or (prompt.place if prompt.place in places else places[0])
        return f"--way {match[1]}-{place}"

    return _PLACE.sub(rf"--way {prompt.method}-\1", _METHOD.sub(other_method, fix))
