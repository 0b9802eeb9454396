"""Tensors and facts in one safetensors file with a checksum over both.

The format itself detects no flipped bit, neither in a tensor nor in its metadata.
"""

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from overture.core.errors import ArtifactError
from overture.core.files import replacing

_KEY = "overture"


def write_sealed(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None, *, is_private: bool = False
) -> None:
    """Replace a file as a whole.

    Args:
        path: the file.
        tensors: by name; from any device.
        facts: what JSON can hold.
        is_private: nobody but the user can read the file.

    Raises:
        DiskFull: no room; the old file is intact.
    """
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts or {}, sort_keys=True)
    header = {_KEY: json.dumps({"facts": text, "sha256": _digest(values, text)})}
    with replacing(path, is_private=is_private) as temporary:
        # Straight from the tensors to the disk: the bytes as a whole would double the memory.
        try:
            save_file(values, temporary, metadata=header)
        except SafetensorError as error:
            # The system's error is in its text alone.
            raise OSError(
                errno.ENOSPC if f"os error {errno.ENOSPC}" in str(error) else errno.EIO, str(error)
            ) from error


def read_sealed(path: Path, fix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU and mapped from the file, and facts as they were written.

    Args:
        path: the file.
        fix: what to do when it is missing or damaged.

    Raises:
        ArtifactError: it is missing, or not as it was written.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = header["facts"]
        if _digest(tensors, text) != header["sha256"]:
            raise ValueError("the values are not those that were saved")
        return tensors, dict(json.loads(text))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError("the file is missing or damaged", where=str(path), got=str(error), fix=fix) from error


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
