"""The base of all records, and reading one back from a file."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from overture.core.config import validated
from overture.core.errors import ConfigError, StoreError

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """Facts that do not change: finite numbers only, and no key that is not a field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
    except ValueError as error:
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
