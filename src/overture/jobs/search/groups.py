"""Groups of settings that train side by side: their requests, their outcomes, and training in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import Field

from overture.core.contracts import Executor
from overture.core.records.base import Answers, Record, read_record
from overture.core.records.events import Listener
from overture.core.records.search import FoundRate
from overture.core.records.training import EpochRecord
from overture.core.records.tune import Status
from overture.core.sealed import write_sealed
from overture.engine.prompted import PromptedModel
from overture.jobs.run.local import LocalExecutor
from overture.jobs.run.members import Decide, SeededSetting, fit_settings
from overture.jobs.run.work import Work
from overture.jobs.search.lr import find_rate
from overture.jobs.search.options import LrConfig
from overture.jobs.search.state import SearchState
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_tensors
from overture.train.checkpoint import join_checkpoints
from overture.train.fit import FitResult
from overture.train.options import TrainConfig

CHECKPOINT, PARTS = "checkpoint.safetensors", "parts.json"

Pause = Callable[[int, Sequence[str]], int]
"""Takes the number of epochs that a group has run and its running keys; gives the epoch after which it decides next."""


class Group(Record):
    """Settings that train side by side on the rows of one wording."""

    wording: int = Field(description="number of the wording")
    members: tuple[SeededSetting, ...]
    folder: str = Field(description="of the group's state, in the run's folder")
    values: str = Field(description="folder of the values of those that come to their ends, in the run's folder")
    is_scored: bool = Field(description="whether those answer the validation rows under their best values")


class Fitted(Record):
    """The outcome of a member's training."""

    status: Status
    history: list[EpochRecord]
    seconds: float = Field(description="seconds of its training")
    path: str = Field("", description="its values, in the run's folder; none where it diverged or could still go on")
    score: float = Field(0.0, description="on validation rows, where it was scored")
    loss: float = Field(0.0, description="as the score")
    predicted: Answers = Field((), description="as the score: an answer for each row")

    @property
    def is_done(self) -> bool:
        """Whether it came to its own end."""
        return self.status in ("finished", "stopped early", "diverged")

    @property
    def num_epochs(self) -> int:
        """How many epochs it ran; the one in which it diverged counts whole."""
        return len(self.history) + (self.status == "diverged")


class Parts(Record):
    """``parts.json``: a group whose members train on several workers."""

    epoch: int = Field(description="epochs that all who go on have run")
    files: dict[str, str] = Field(description="key of a member -> the checkpoint that has it, in the run's folder")

    def join(self, run_folder: Path, names: Sequence[str], target: Path) -> None:
        """Write a checkpoint of some members; of those that no file has, none."""
        sources: dict[Path, list[str]] = {}
        for name in names:
            if name in self.files:
                sources.setdefault(run_folder / self.files[name], []).append(name)
        if sources:
            join_checkpoints(target, sources)


class RateJob(Record):
    """A range test of one method at one place."""

    prompt: PromptConfig
    train: TrainConfig
    seed: int

    @property
    def name(self) -> str:
        """Method and place."""
        return f"{self.prompt.method} {self.prompt.place}"


class Trainer(Protocol):
    """Trains what a search asks for, here or elsewhere."""

    @property
    def rates(self) -> Executor[RateJob, FoundRate]:
        """Runs range tests."""
        ...

    def train(self, group: Group, decide: Decide, pause: Pause) -> dict[str, Fitted]:
        """Train a group from where it stands.

        Args:
            group: the group.
            decide: called after each epoch with the history of every running member; returns the keys to continue.
            pause: tells how long no decision can be due.

        Returns:
            The outcome of each member, by key.

        Raises:
            Stopped: a stop was asked for; the group can go on.
        """
        ...


@dataclass(slots=True)
class TrainerHere:
    """Trains in this process; meets `Trainer`."""

    state: SearchState

    @property
    def rates(self) -> Executor[RateJob, FoundRate]:
        """Range tests, one after another."""

        def tested(job: RateJob, on_event: Listener) -> FoundRate:
            return found_rate(self.state, job)

        return LocalExecutor(tested, self.state.work.is_stop_asked)

    def train(self, group: Group, decide: Decide, pause: Pause) -> dict[str, Fitted]:
        """As `Trainer.train`; it is decided after every epoch."""
        state, folder = self.state, self.state.run.folder
        work, checkpoint = state.in_wording(group.wording), folder / group.folder / CHECKPOINT
        if parts := read_record(Parts, checkpoint.with_name(PARTS)):
            # Its members have trained on workers, until the search was stopped.
            parts.join(folder, [member.key for member in group.members], checkpoint)
            checkpoint.with_name(PARTS).unlink()
        results = fit_settings(work, group.members, decide, checkpoint)
        state.check_stop()
        return {member.key: fitted(work, group, member, results[member.key], folder) for member in group.members}


def found_rate(state: SearchState, job: RateJob) -> FoundRate:
    """Run a range test.

    Raises:
        Diverged: the loss is not finite from the start.
    """
    work = state.in_wording(0)
    return FoundRate(lr=find_rate(work, job.prompt, job.train, job.seed, LrConfig()).suggested)


def fitted(work: Work, group: Group, member: SeededSetting, result: FitResult, run_folder: Path) -> Fitted:
    """The outcome of a member; a finished one's best values are stored, and scored where the group wants scores."""
    record = Fitted(status=result.status, history=result.progress.history, seconds=result.progress.seconds)
    if not (result.best and record.is_done):
        return record
    path = f"{group.values}/{member.key}.prompt.safetensors"
    model = _write_values(work, member, result, run_folder / path)
    record = record.model_copy(update={"path": path})
    if not group.is_scored:
        return record
    scored = work.score(model, "validation", f"{member.key}, seed {member.seed}: scoring validation")
    scores = {"score": scored.value(work.task), "loss": scored.loss, "predicted": tuple(scored.predicted)}
    return record.model_copy(update=scores)


def _write_values(work: Work, member: SeededSetting, result: FitResult, path: Path) -> PromptedModel:
    """Write a trained prompt's values; gives the model under it."""
    import torch

    model = work.built(member.prompt, member.seed)
    with torch.no_grad():
        for name, value in model.trainable().items():
            value.copy_(result.best[name])
    write_sealed(path, prompt_tensors(model.prompt))
    return model
