"""How a value of a data file becomes text."""

import math
import re
import unicodedata
from typing import Any

_DECIMAL_COMMA = re.compile(r"[+-]?(?:0|\d+),\d+")
_MISSING_WORDS = frozenset(("nan", "n/a", "#n/a", "<na>", "null", "na", "none", "-", "?"))
_JOINERS = "\u200c\u200d"
"""Signs without a form of their own that change those beside them: in Persian, Hindi and emoji."""
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")


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


def has_decimal_comma(value: Any) -> bool:
    """Whether a text is a number with a decimal comma; 1,234 may also be a number of thousands, and is none."""
    text = value.strip() if isinstance(value, str) else ""
    return bool(_DECIMAL_COMMA.fullmatch(text)) and not _THOUSANDS.fullmatch(text)


def as_number(value: Any) -> float | None:
    """A finite number, with a point or a decimal comma; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(str(value).replace(",", ".") if has_decimal_comma(value) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_infinite(value: Any) -> bool:
    """Whether a value is an infinite number, or a text of one, such as inf or 1e999."""
    if isinstance(value, bool) or not isinstance(value, float | str):
        return False
    try:
        return math.isinf(float(value))
    except ValueError:
        return False


def clean_label(label: str) -> str:
    """A label without odd white space and characters that cannot be seen, its accents in one form."""
    signs = unicodedata.normalize("NFC", label)
    visible = "".join(sign for sign in signs if unicodedata.category(sign) != "Cf" or sign in _JOINERS)
    return " ".join(visible.split()) or label


def normal_spelling(label: str) -> str:
    """A label as all its spellings have it: clean, in small letters, 1.0 as 1."""
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", clean_label(label).casefold())


def is_missing_word(value: Any) -> bool:
    """Whether a text may stand for no value, such as N/A."""
    return isinstance(value, str) and value.strip().lower() in _MISSING_WORDS
