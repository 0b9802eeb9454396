"""How a value of a data file becomes text."""

import math
from typing import Any


def as_text(value: Any) -> str | None:
    """The text of a string, number or truth value; None for anything else, NaN included."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    return None


def label_text(value: Any) -> str | None:
    """The name of a label; 1.0 and 1 are the same, since tables with gaps turn whole numbers into fractions."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return as_text(value)


def kind(value: Any) -> str:
    """The type of a value, in the words of a data file."""
    if value is None:
        return "null"
    names = {"dict": "an object", "list": "a list", "float": "not a finite number"}
    return names.get(type(value).__name__, f"of type {type(value).__name__}")


def is_blank(value: Any) -> bool:
    """Whether a value holds nothing: null, not a number, white space, or a list or an object of nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return not value.strip() if isinstance(value, str) else isinstance(value, list | dict) and not value
