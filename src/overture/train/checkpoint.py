"""A run's state as one safetensors file: each member's values, best and mean values, optimiser and progress.

One file, so that all members of a cohort are saved at one step. Nothing in it is pickled, and one checksum covers the
values and the progress. A digest of each member's rows keeps training from continuing with other rows.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from overture.core.errors import ArtifactError
from overture.core.records.training import EpochRecord
from overture.core.rows import Encoded
from overture.core.sealed import read_sealed, write_sealed

_FIX = "delete it; the training that it belongs to starts again"


@dataclass(slots=True)
class Progress:
    """The progress of a run.

    Args:
        epoch: the epoch under way, from 0.
        batch: batches of it that are done.
        step: optimiser steps done.
        loss_sum: of the epoch under way.
        weight_sum: of the epoch under way.
        seconds: spent in training, over all sittings.
        history: one entry an epoch.
        best_epoch: the epoch of the best validation score; -1 before the first.
        ended: why it ended early: diverged, or dropped from its cohort; empty otherwise.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    seconds: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = -1
    ended: str = ""


class Member(Protocol):
    """The state of one trainee; loading replaces `progress`, `best` and `mean` and changes the others in place."""

    progress: Progress
    values: dict[str, Tensor]
    best: dict[str, Tensor]
    mean: dict[str, Tensor]
    optimiser: torch.optim.Optimizer

    @property
    def rows_digest(self) -> str:
        """Fingerprint of its training rows."""
        ...


def rows_digest(rows: Sequence[Encoded]) -> str:
    """Fingerprint of training rows as the model reads them, with their targets."""
    digest, candidates = hashlib.sha256(), None
    for row in rows:
        target, shares = row.target, getattr(row.target, "shares", None)
        target_facts = (type(target).__name__, target.gold, shares)
        digest.update(repr((row.input, row.anchor, row.slots, row.part, target_facts)).encode())
        if (own_candidates := getattr(target, "candidates", None)) is not candidates:
            candidates = own_candidates
            digest.update(repr(candidates).encode())
    return digest.hexdigest()


def save_checkpoint(path: Path, members: Mapping[str, Member]) -> None:
    """Write everything that a bit-equal continuation needs.

    Args:
        path: the file.
        members: by name; a slash may not stand in one.

    Raises:
        DiskFull: no room; the last checkpoint is intact.
    """
    tensors = {"random/torch": torch.get_rng_state()}
    states = {}
    for name, member in members.items():
        numbers, state = _optimiser_state(member.optimiser)
        state |= {f"value/{key}": value for key, value in member.values.items()}
        state |= {f"best/{key}": value for key, value in member.best.items()}
        state |= {f"mean/{key}": value for key, value in member.mean.items()}
        tensors |= {f"{name}/{key}": value for key, value in state.items()}
        states[name] = {
            "progress": {**asdict(member.progress), "history": [epoch.dump() for epoch in member.progress.history]},
            "optimiser": numbers,
            "optimiser_kind": type(member.optimiser).__name__,
            "rows": member.rows_digest,
        }
    write_sealed(path, tensors, states)


def _optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    numbers: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for index, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            name = f"optimiser/{index}/{key}"
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                numbers[name] = value
    return numbers, tensors


def load_checkpoint(path: Path, members: Mapping[str, Member]) -> None:
    """Restore members in place; the file may hold further members.

    Raises:
        ArtifactError: the file is damaged or belongs to other prompts; nothing was changed.
    """
    tensors, states = read_sealed(path, _FIX)
    try:
        progress = {name: _progress(saved["progress"]) for name, saved in states.items()}
        random = tensors["random/torch"]
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError("the checkpoint is damaged", where=str(path), got=str(error), fix=_FIX) from error
    if not set(members) <= set(states):
        got, expected = ", ".join(states), ", ".join(members)
        raise ArtifactError("the checkpoint is of other members", where=str(path), got=got, wanted=expected)
    for name, member in members.items():
        _check(path, _with_prefix(tensors, f"{name}/"), states[name], member)
    for name, member in members.items():
        saved = _with_prefix(tensors, f"{name}/")
        with torch.no_grad():
            for key, value in member.values.items():
                value.copy_(saved[f"value/{key}"])
        _restore_optimiser(saved, states[name]["optimiser"], member.optimiser)
        member.progress, member.best, member.mean = (
            progress[name],
            _with_prefix(saved, "best/"),
            _with_prefix(saved, "mean/"),
        )
    torch.set_rng_state(random)


def join_checkpoints(path: Path, sources: Mapping[Path, Sequence[str]]) -> None:
    """Write a checkpoint of members that have trained apart.

    Args:
        path: the new file.
        sources: names of members by the file that has their state.

    Raises:
        ArtifactError: a file is damaged, or has not the members.
        DiskFull: no room.
    """
    joined_tensors: dict[str, Tensor] = {}
    joined_states: dict[str, Any] = {}
    for source, names in sources.items():
        tensors, states = read_sealed(source, _FIX)
        if not set(names) <= set(states):
            got, expected = ", ".join(states), ", ".join(names)
            raise ArtifactError("the checkpoint is of other members", where=str(source), got=got, wanted=expected)
        joined_tensors["random/torch"] = tensors["random/torch"]
        for name in names:
            joined_tensors |= {key: value for key, value in tensors.items() if key.startswith(f"{name}/")}
            joined_states[name] = states[name]
    write_sealed(path, joined_tensors, joined_states)


def _progress(saved: dict[str, Any]) -> Progress:
    return Progress(**{**saved, "history": [EpochRecord.model_validate(epoch) for epoch in saved["history"]]})


def _check(path: Path, tensors: dict[str, Tensor], saved: Mapping[str, Any], member: Member) -> None:
    if saved.get("rows") != member.rows_digest:
        raise ArtifactError(
            "the checkpoint was made with other training rows, another template or another tokenizer",
            where=str(path),
            got=f"rows {member.rows_digest:.16}",
            wanted=f"rows {saved.get('rows')!s:.16}",
            fix="put data and task back as they were, or start a new run",
        )
    kind, expected_kind = saved.get("optimiser_kind"), type(member.optimiser).__name__
    if kind != expected_kind:
        raise ArtifactError(
            "the checkpoint is of another optimiser", where=str(path), got=str(kind), wanted=expected_kind
        )
    shapes = {name: tuple(value.shape) for name, value in _with_prefix(tensors, "value/").items()}
    expected_shapes = {name: tuple(value.shape) for name, value in member.values.items()}
    if shapes != expected_shapes:
        raise ArtifactError(
            "the checkpoint is of another prompt", where=str(path), got=str(shapes), wanted=str(expected_shapes)
        )


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _restore_optimiser(tensors: dict[str, Tensor], numbers: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in (_with_prefix(tensors, "optimiser/") | _with_prefix(numbers, "optimiser/")).items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
