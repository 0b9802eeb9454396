"""A group of settings on the same rows, trained as one cohort: after each epoch a callback says which go on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from overture.core.records.base import Record
from overture.core.records.training import EpochRecord
from overture.jobs.run.work import Member, Work
from overture.prompt.config import PromptConfig
from overture.train.fit import FitResult
from overture.train.options import TrainConfig

Histories = Mapping[str, Sequence[EpochRecord]]
Decide = Callable[[Histories], Collection[str]]


class SeededSetting(Record):
    """One setting of a group, and the seed that it is trained with."""

    key: str = Field(description="names it")
    prompt: PromptConfig
    train: TrainConfig = Field(description="how it is trained; with a learning rate")
    seed: int = Field(description="of its start and its batches")


def fit_settings(
    work: Work,
    settings: Sequence[SeededSetting],
    decide: Decide | None,
    checkpoint: Path,
    until: int | None = None,
) -> dict[str, FitResult]:
    """Train settings at one pace.

    Args:
        work: rows and model.
        settings: the settings to train.
        decide: called after each epoch with the history of every running member; returns the keys to continue.
            Members that ended with the epoch are not among them: their results say how. All go on when None.
        checkpoint: the group's state; training goes on from one that is there.
        until: number of epochs after which those that could go on wait.
    """
    # The race trains settings again, with other seeds.
    names = [s.key if s.seed == work.config.seed else f"{s.key}, seed {s.seed}" for s in settings]
    group = [
        Member(s.key, work.fresh(s.prompt, s.seed), s.train, s.seed, name)
        for s, name in zip(settings, names, strict=True)
    ]
    each_epoch = None if decide is None else lambda epoch, histories: decide(histories)
    results = work.fit_cohort(group, checkpoint, each_epoch, until)
    return {setting.key: result for setting, result in zip(settings, results, strict=True)}
