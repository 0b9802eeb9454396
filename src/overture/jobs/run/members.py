"""A group of settings on the same rows, trained as one cohort: after each epoch somebody says which go on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from overture.core.records.training import EpochRecord
from overture.jobs.run.work import Member, Work
from overture.prompt.config import PromptConfig
from overture.train.fit import FitResult
from overture.train.options import TrainConfig

Histories = Mapping[str, Sequence[EpochRecord]]
Decide = Callable[[Histories], Collection[str]]


@dataclass(frozen=True, slots=True)
class SeededSetting:
    """One setting of a group, and the seed that it is trained with.

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


def num_epochs_of(result: FitResult) -> int:
    """How many epochs a member ran; the one in which it diverged counts whole."""
    return len(result.progress.history) + (result.status == "diverged")


def fit_settings(work: Work, settings: Sequence[SeededSetting], decide: Decide, folder: Path) -> dict[str, FitResult]:
    """Train settings at one pace.

    Args:
        work: rows and model.
        settings: what is trained.
        decide: called after each epoch with the history of every running member; returns the keys to continue.
            Members that ended with the epoch are not among them: their results say how.
        folder: where the group's state is kept; training goes on from a state that is there.
    """
    # The race trains settings again, with other seeds.
    names = [s.key if s.seed == work.config.seed else f"{s.key}, seed {s.seed}" for s in settings]
    group = [
        Member(s.key, work.fresh(s.prompt, s.seed), s.train, s.seed, name)
        for s, name in zip(settings, names, strict=True)
    ]
    results = work.fit_cohort(group, folder / "checkpoint.safetensors", lambda epoch, histories: decide(histories))
    return {setting.key: result for setting, result in zip(settings, results, strict=True)}
