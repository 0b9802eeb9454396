"""A run's state as one safetensors file: values, best values, optimiser, random numbers, and where it stood.

One file, so that it is replaced as a whole. Nothing in it is pickled.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from overture.core.errors import ArtifactError
from overture.core.files import write_atomic


@dataclass(slots=True)
class Progress:
    """Where a run stands.

    Args:
        epoch: the epoch under way, from 0.
        batch: batches of it that are done.
        step: optimiser steps done.
        loss_sum: of the epoch under way.
        weight_sum: of the epoch under way.
        seconds: spent in training, over all sittings.
        history: one entry an epoch.
        best_epoch: the epoch of the best validation score; -1 before the first.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1


def save_checkpoint(
    path: Path,
    progress: Progress,
    values: dict[str, Tensor],
    best: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write everything that a bit-equal continuation needs.

    Raises:
        DiskFull: no room; the last checkpoint is intact.
    """
    numbers, tensors = _optimiser_state(optimiser)
    tensors |= {f"value/{name}": value.detach().cpu().contiguous() for name, value in values.items()}
    tensors |= {f"best/{name}": value.cpu().contiguous() for name, value in best.items()}
    tensors["random/torch"] = torch.get_rng_state()
    kind = type(optimiser).__name__
    state = {"progress": asdict(progress), "optimiser": numbers, "optimiser_kind": kind, "sha256": _digest(tensors)}
    write_atomic(path, save(tensors, metadata={"overture": json.dumps(state)}))


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over tensors by name: the format itself does not notice a flipped bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    numbers: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for index, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            name = f"optimiser/{index}/{key}"
            if isinstance(value, Tensor):
                tensors[name] = value.detach().cpu().contiguous()
            else:
                numbers[name] = value
    return numbers, tensors


def load_checkpoint(
    path: Path, values: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor]]:
    """Put a run back where it stood; values and optimiser are changed in place.

    Returns:
        The progress and the best values so far.

    Raises:
        ArtifactError: the file is damaged or belongs to another prompt.
    """
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["overture"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress, numbers, kind = Progress(**state["progress"]), state["optimiser"], state["optimiser_kind"]
        random = tensors["random/torch"]
        if _digest(tensors) != state["sha256"]:
            raise ValueError("the values are not those that were saved")
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(
            "the checkpoint is damaged",
            where=str(path),
            got=str(error),
            fix="delete it; the run starts this seed again",
        ) from error
    if kind != type(optimiser).__name__:
        wanted = type(optimiser).__name__
        raise ArtifactError("the checkpoint is of another optimiser", where=str(path), got=kind, wanted=wanted)
    _put_values(path, tensors, values)
    _put_optimiser(tensors, numbers, optimiser)
    torch.set_rng_state(random)
    return progress, _under(tensors, "best/")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _put_values(path: Path, tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    stored = _under(tensors, "value/")
    shapes = {name: tuple(value.shape) for name, value in stored.items()}
    wanted = {name: tuple(value.shape) for name, value in values.items()}
    if shapes != wanted:
        raise ArtifactError("the checkpoint is of another prompt", where=str(path), got=str(shapes), wanted=str(wanted))
    with torch.no_grad():
        for name, value in values.items():
            value.copy_(stored[name])


def _put_optimiser(tensors: dict[str, Tensor], numbers: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in (_under(tensors, "optimiser/") | _under(numbers, "optimiser/")).items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
