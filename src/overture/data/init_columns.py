"""The columns of a data file, and the part that each may play in a task."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from overture.data.formats.form import Records
from overture.data.template import is_field_name
from overture.data.values import as_number, as_text, is_blank, is_infinite, is_missing_word, label_text

MAX_LABELS = 50
_MAX_NAMED_LABELS = 1000
_MOST_NUMBERS = 20
"""Texts of more different numbers, some with fractions, are no labels."""
_MISFIT_SHARE = 0.05
"""Of a column of numbers, at most so many values are none."""
_LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "category",
    "sentiment",
    "intent",
    "target",
    "topic",
    "emotion",
    "polarity",
    "stance",
    "rating",
    "stars",
    "gold",
    "verdict",
    "score",
    "similarity",
)
_TEXT_WORDS = frozenset(
    re.findall(
        r"\w+",
        """text sentence question context premise hypothesis instruction input document title subject body content
        message review comment description summary headline abstract passage paragraph query post tweet utterance
        article dialogue dialog conversation aspect term claim evidence prompt email note story ending statement answer
        response reply opinion feedback caption transcript snippet code goal situation entity target word phrase""",
    )
)
_ID_WORDS = frozenset(("id", "ids", "uuid", "guid", "uid", "idx", "index", "hash", "url", "uri", "link", "nr"))
_BOOKKEEPING = frozenset(
    ("annotator", "annotators", "annotation", "worker", "timestamp", "split", "lang", "language", "created", "updated")
)
_DATE = re.compile(
    r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([T ]\d{1,2}:\d{2}.*)?|(\S+ ){0,4}\d{1,2}:\d{2}(:\d{2})?( \S+){0,2}"
)


@dataclass(frozen=True)
class Column:
    """One field of all rows.

    Args:
        name: its name.
        values: the value of each row; None where a row lacks it.
    """

    name: str
    values: Sequence[Any]

    @cached_property
    def filled(self) -> list[Any]:
        """The values that are not empty."""
        return [value for value in self.values if not is_blank(value)]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each value occurs, as the text of a label; nothing if a value is no text or number.

        Infinite numbers are left out.
        """
        texts = [label_text(value) for value in self.filled if not (isinstance(value, float) and math.isinf(value))]
        return Counter() if None in texts else Counter(text for text in texts if text is not None)

    @cached_property
    def words_of_name(self) -> list[str]:
        """The words that make up the name, in small letters."""
        return [word.lower() for word in re.findall(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])", self.name)]

    @cached_property
    def mean_words(self) -> float:
        """How many words a value has on average."""
        return sum(len(str(value).split()) for value in self.filled) / max(len(self.filled), 1)

    @cached_property
    def labels(self) -> list[str]:
        """Its values if they could be labels, sorted; empty if not."""
        if not self.counts or any("\n" in text or not text.strip() for text in self.counts):
            return []
        if any(isinstance(value, float) and math.isfinite(value) and not value.is_integer() for value in self.filled):
            return []
        if len({*self.numbers}) > _MOST_NUMBERS and not all(number.is_integer() for number in self.numbers):
            # Tables have numbers as texts.
            return []
        most = _MAX_NAMED_LABELS if self.label_rank is not None else MAX_LABELS
        return sorted(self.counts) if 2 <= len(self.counts) <= min(most, len(self.values) // 2) else []

    @cached_property
    def numbers(self) -> list[float]:
        """Its finite numbers, where it holds numbers; empty if not.

        Words for no value and infinite numbers do not matter, nor a few others, such as #DIV/0!; but 1,2,3 does.
        """
        values = [value for value in self.filled if not is_missing_word(value) and not is_infinite(value)]
        numbers = [number for value in values if (number := as_number(value)) is not None]
        misfits = [value for value in values if as_number(value) is None]
        is_list = any(re.fullmatch(r"[\d\s.,;|#]+", as_text(value) or "0") for value in misfits)
        return [] if is_list or len(misfits) > _MISFIT_SHARE * len(values) else numbers

    @property
    def label_rank(self) -> int | None:
        """How plainly its name says that it is the label, from 0; None if it does not."""
        plain = self.name.strip().lower()
        if plain in _LABEL_NAMES:
            return _LABEL_NAMES.index(plain)
        is_label = bool({"label", "labels", "class", "category"} & {*self.words_of_name[-1:], *self.words_of_name[:1]})
        return len(_LABEL_NAMES) if is_label and "id" not in self.words_of_name else None

    @property
    def is_named_text(self) -> bool:
        """Whether its name is one that texts have."""
        return bool(_TEXT_WORDS & set(self.words_of_name)) and not _ID_WORDS & set(self.words_of_name)

    @cached_property
    def why_left_out(self) -> str:
        """Why the template should not show it; empty if it holds texts."""
        texts = [(as_text(value) or "").strip() for value in self.filled]
        is_few = len(self.counts) <= min(MAX_LABELS, len(self.values) // 2)
        is_text = self.is_named_text or self.mean_words >= 3
        reasons = {
            "its name cannot stand in a template": not is_field_name(self.name),
            "empty": not self.filled,
            "lists or objects": not self.counts,
            f"the same in every row: {next(iter(self.counts), '')!r:.30}": len(self.counts) == 1 < len(self.values),
            "identifiers": self.is_identifier,
            "dates": all(_DATE.fullmatch(text) for text in texts),
            "numbers": all(re.fullmatch(r"[-+]?[\d.,]+\s*%?", text) for text in texts),
            "bookkeeping": not is_text and bool(_BOOKKEEPING & set(self.words_of_name)),
            f"{len(self.counts)} different values": not is_text and is_few,
        }
        return next((reason for reason, is_so in reasons.items() if is_so), "")

    @property
    def is_identifier(self) -> bool:
        """Whether it looks like an identifier of rows."""
        if self.mean_words >= 3:
            return False
        if _ID_WORDS & set(self.words_of_name[-1:]) or self.name.startswith("_") or "unnamed" in self.words_of_name:
            return True
        is_coded = all(re.fullmatch(r"(?![-+]?\d+[.,]\d+$)\S*\d\S*", text) for text in self.counts)
        return is_coded and len(self.counts) == len(self.filled) and not self.is_named_text


def columns_of(rows: Records) -> list[Column]:
    """The fields of all rows that have a name, in the order in which they appear."""
    names = dict.fromkeys(name for row in rows for name in row if name.strip())
    return [Column(name, [row.get(name) for row in rows]) for name in names]


def text_fields(columns: Sequence[Column], target: Sequence[str]) -> list[str]:
    """The fields with texts, in file order, those with known names first.

    Where no field looks like text, identifiers and categories may be texts after all.
    """
    candidates = [column for column in columns if column.name not in target]
    texts = [column for column in candidates if not column.why_left_out]
    if not texts:
        readable = [c for c in candidates if is_field_name(c.name) and any(map(str.isalpha, "".join(c.counts)))]
        texts = [column for column in readable if column.is_identifier] or readable
    usual_names = [column.name for column in texts if column.is_named_text]
    return [*usual_names, *(column.name for column in texts if column.name not in usual_names)]
