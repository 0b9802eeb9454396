"""The base of all records, and reading one back from a file."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from overture.core.config import validated
from overture.core.errors import ConfigError, StoreError

R = TypeVar("R", bound=BaseModel)


FROM_JSON = "from JSON"
"""Context of a validation whose values were read from JSON without NaN: options need not be written to be looked at."""


def _as_json(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    if info.context == FROM_JSON:
        return value
    # What is kept equals what will be read back: tuples become lists now, NaN is refused now.
    try:
        raw = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"cannot be written as JSON: {error}") from error
    kept: dict[str, Any] = json.loads(raw)
    return kept


Options = Annotated[dict[str, Any], AfterValidator(_as_json)]
"""Options of a room above, as JSON holds them; that room's own class reads them back."""


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


Answers = Annotated[tuple[Any, ...], BeforeValidator(_frozen)]
"""Answers of a model, one a row, hashable as metrics compare them; JSON holds their tuples as lists."""


class Record(BaseModel):
    """Facts that do not change: finite numbers only, and no key that is not a field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    def dump(self) -> dict[str, Any]:
        """The record as JSON holds it; fields made by `optional` are left out where they are None."""
        return self.model_dump(mode="json")


def optional(description: str) -> Any:
    """A field that JSON lacks where it is None."""
    return Field(None, description=description, exclude_if=lambda value: value is None)


def read_record(model: type[R], path: Path) -> R | None:
    """The record in a JSON file, or None where there is no such file.

    Args:
        model: the record's class.
        path: the file.

    Raises:
        StoreError: the file is no JSON, or its keys or values are not the record's.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise StoreError(
            "the file is damaged", where=str(path), got=str(error), wanted="JSON", fix="delete it and resume the run"
        ) from None
    try:
        return validated(model, values, str(path))
    except ConfigError as error:
        raise StoreError(
            f"the file holds no {model.__name__} of this version of Overture",
            where=str(path),
            fix="delete it and resume the run, or go on with the version that wrote it",
            problems=error.problems,
        ) from None
