"""Reads from a checkpoint's folder how its images or sounds are prepared."""

import json
from pathlib import Path
from typing import Any

from overture.core.errors import BackboneError

FILES = ("preprocessor_config.json", "processor_config.json")
"""Where checkpoints keep it; the second file holds it under a key for each modality."""


def preparation_of(folder: Path, part: str, what: str) -> tuple[dict[str, Any], str]:
    """The values of the preparation, and the file that holds them.

    Args:
        folder: the checkpoint's.
        part: the key of the modality in the second file, which holds the preparations of all.
        what: the modality, for errors.

    Raises:
        BackboneError: no file says it, or one is no JSON object.
    """
    for name in FILES:
        file = folder / name
        if not file.is_file():
            continue
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BackboneError("the file is no JSON", where=str(file), got=str(error)) from error
        if name == FILES[1] and isinstance(values, dict):
            values = values.get(part) or {}
        if not isinstance(values, dict):
            raise BackboneError("the file is no JSON object", where=str(file), got=type(values).__name__)
        if values:
            return values, str(file)
    raise BackboneError(
        f"the model's folder does not say how its {what} are prepared",
        where=str(folder),
        wanted=FILES[0],
        fix="copy the file from the model's page, since another preparation makes the features worse",
    )
