"""A group of prompts on the same rows, trained side by side: after each epoch somebody says which go on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overture.engine import PromptedModel
from overture.prompt import PromptConfig
from overture.study.run import Run
from overture.study.work import Work
from overture.train import FitResult, TrainConfig
from overture.train.checkpoint import epochs_in

Histories = Mapping[str, Sequence[Mapping[str, float]]]
Decide = Callable[[Histories], Collection[str]]


@dataclass(frozen=True, slots=True)
class Member:
    """One prompt of a group.

    Args:
        key: names it.
        prompt: the prompt.
        train: how it is trained; with a learning rate.
        seed: of its start and its batches.
    """

    key: str
    prompt: PromptConfig
    train: TrainConfig
    seed: int


def is_done(result: FitResult) -> bool:
    """Whether a member came to its own end."""
    return result.status in ("finished", "stopped early", "diverged")


def fit_cohort(work: Work, members: Sequence[Member], decide: Decide, folder: Path) -> dict[str, FitResult]:
    """Train members epoch by epoch; those that were told not to go on, or were stopped, end as ``interrupted``.

    Args:
        work: rows and model.
        members: what is trained.
        decide: told of the epochs of all that are alive after each epoch; gives the keys that go on.
        folder: where each member's state is kept; what is there is gone on with.
    """
    models = {member.key: work.fresh(member.prompt, member.seed) for member in members}
    results: dict[str, FitResult] = {}
    alive = list(members)
    for epoch in range(max((member.train.epochs for member in members), default=0)):
        for member in alive:
            results[member.key] = _to_epoch(work, member, models[member.key], epoch + 1, folder)
            if work.is_stop_asked():
                return results
        # After a stop some are further than others: everybody is told of up to the same epoch.
        on = decide({member.key: results[member.key].progress.history[: epoch + 1] for member in alive})
        alive = [one for one in alive if one.key in on and results[one.key].status == "interrupted"]
        if not alive:
            break
    return results


def _to_epoch(work: Work, member: Member, model: PromptedModel, epoch: int, folder: Path) -> FitResult:
    """Train one member until so many epochs are done."""
    checkpoint = folder / f"{member.key}.safetensors"
    done = epochs_in(checkpoint)
    if done >= epoch:
        # From before a stop: the group's other members are behind. Nothing is trained, the state is only read.
        found = work.fit(model, member.train.model_copy(update={"epochs": done}), member.seed, checkpoint)
        return replace(found, status="interrupted" if done < member.train.epochs else "finished")

    def listen(event: dict[str, Any]) -> None:
        nonlocal done
        if event["event"] == "epoch":
            done = event["epoch"] + 1
        work.run.listener(event)

    one = replace(
        work,
        run=Run(work.run.folder, listen),
        # The loop looks at this after each batch too: the epoch under way is `done`, counted from 0.
        is_stop_asked=lambda: done >= epoch or work.is_stop_asked(),
    )
    return one.fit(model, member.train, member.seed, checkpoint, {"who": member.key, "seed": member.seed})
