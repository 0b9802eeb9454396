"""The training loop: one for prompts, adapters and full fine-tuning alike."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from overture.core.config import Config
from overture.core.types import Encoded, Trainee
from overture.data.batches import epoch_batches, micro_batches
from overture.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from overture.train.optim import OPTIMISERS, OptimiserName, rate_at

Status = Literal["finished", "stopped early", "interrupted", "diverged"]
Events = Callable[[dict[str, Any]], None]


class TrainConfig(Config):
    """How a prompt is trained."""

    epochs: int = Field(5, ge=1, description="Passes over the training rows.")
    batch_size: int = Field(16, ge=1, description="Rows of one optimiser step.")
    lr: float | None = Field(None, gt=0, le=10, description="Learning rate; the method's own when empty.")
    optimiser: OptimiserName = Field("adamw", description="adamw or adafactor.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    warmup_steps: int = Field(10, ge=0, description="Steps over which the learning rate rises.")
    schedule: Literal["linear", "constant"] = Field("linear", description="The learning rate after the warm-up.")
    clip: float = Field(1.0, gt=0, description="Largest length of the gradient.")
    patience: int = Field(3, ge=1, description="Epochs without a better validation score before training stops.")
    max_tokens: int = Field(4096, ge=1, description="Padded tokens of one forward pass; larger batches are cut.")
    checkpoint_seconds: float = Field(30.0, ge=0, description="Seconds between checkpoints within an epoch.")
    gradient_checkpointing: bool = Field(False, description="Less memory, about a third more time.")


@dataclass(frozen=True, slots=True)
class Validation:
    """A validation score: the larger the better, and the loss that breaks ties."""

    score: float
    loss: float


@dataclass(frozen=True, slots=True)
class FitResult:
    """What training left.

    Args:
        status: how it ended.
        best: the values at the best validation score.
        progress: epochs, steps, seconds and the history.
    """

    status: Status
    best: dict[str, Tensor]
    progress: Progress


class Fit:
    """One training run of one trainee; it can stop after any batch and go on bit-equal.

    Args:
        trainee: what is trained.
        rows: training rows.
        validate: scores the trainee as it is now.
        config: options; ``lr`` must be set.
        seed: orders the batches.
        checkpoint: where the state is kept; nothing is kept when None.
        events: told of steps and epochs.
        is_stop_asked: looked at after each batch.
    """

    def __init__(
        self,
        trainee: Trainee,
        rows: Sequence[Encoded],
        validate: Callable[[], Validation],
        config: TrainConfig,
        seed: int,
        checkpoint: Path | None = None,
        events: Events = lambda event: None,
        is_stop_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        assert config.lr is not None
        self.trainee, self.rows, self.validate, self.config, self.seed = trainee, rows, validate, config, seed
        self.checkpoint, self.events, self.is_stop_asked = checkpoint, events, is_stop_asked
        self.lr = config.lr
        self.values = trainee.trainable()
        self.factors = [trainee.rates().get(name, 1.0) for name in self.values]
        # One group for each value, so that each has a rate of its own; their order is the values'.
        groups = [{"params": [value]} for value in self.values.values()]
        self.optimiser = OPTIMISERS[config.optimiser](groups, config.lr, config.weight_decay)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.num_batches = math.ceil(len(rows) / config.batch_size)
        self._started = self._saved = time.perf_counter()

    def run(self) -> FitResult:
        """Train to the end, from the checkpoint when there is one.

        Raises:
            DiskFull: a checkpoint could not be written; the last one is intact.
        """
        if self.checkpoint and self.checkpoint.exists():
            self.progress, self.best = load_checkpoint(self.checkpoint, self.values, self.optimiser)
        status = self._epochs()
        if status != "interrupted":
            with torch.no_grad():
                for name, value in self.best.items():
                    self.values[name].copy_(value)
        return FitResult(status, self.best, self.progress)

    def _epochs(self) -> Status:
        while self.progress.epoch < self.config.epochs and not self._is_patience_over():
            status = self._epoch()
            if status != "finished":
                return status
        return "stopped early" if self.progress.epoch < self.config.epochs else "finished"

    def _is_patience_over(self) -> bool:
        done = self.progress.epoch
        return done > 0 and done - 1 - self.progress.best_epoch >= self.config.patience

    def _epoch(self) -> Status:
        at = self.progress
        batches = epoch_batches(self.rows, self.config.batch_size, self.seed, at.epoch)
        self._started = time.perf_counter()
        for batch in batches[at.batch :]:
            loss, weight = self._step(batch)
            if not math.isfinite(loss):
                self.events({"event": "diverged", "epoch": at.epoch, "step": at.step})
                return "diverged"
            at.batch, at.step = at.batch + 1, at.step + 1
            at.loss_sum, at.weight_sum = at.loss_sum + loss, at.weight_sum + weight
            self.events({"event": "step", "epoch": at.epoch, "step": at.step, "loss": loss / weight})
            if self.is_stop_asked():
                self._save()
                return "interrupted"
            if time.perf_counter() - self._saved >= self.config.checkpoint_seconds:
                self._save()
        return self._end_epoch()

    def _step(self, batch: Sequence[Encoded]) -> tuple[float, float]:
        """One optimiser step: the sum of the losses and its weight; not taken when something is not finite."""
        weight = self.trainee.weight(batch)
        total = 0.0
        self.optimiser.zero_grad(set_to_none=True)
        for part in micro_batches(batch, self.config.max_tokens):
            loss = self.trainee.loss(part)
            (loss / weight).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(list(self.values.values()), self.config.clip)
        if not (math.isfinite(total) and bool(norm.isfinite())):
            return math.nan, weight
        share = rate_at(
            self.progress.step, self.config.epochs * self.num_batches, self.config.warmup_steps, self.config.schedule
        )
        for group, factor in zip(self.optimiser.param_groups, self.factors, strict=True):
            group["lr"] = self.lr * share * factor
        self.optimiser.step()
        return total, weight

    def _end_epoch(self) -> Status:
        at = self.progress
        train_loss = at.loss_sum / at.weight_sum
        self._count_time()
        found = self.validate()
        if not math.isfinite(found.loss):
            self.events({"event": "diverged", "epoch": at.epoch, "step": at.step})
            return "diverged"
        entry = {
            "epoch": at.epoch,
            "train_loss": train_loss,
            "validation_loss": found.loss,
            "validation_score": found.score,
            "seconds": at.seconds,
        }
        at.history.append(entry)
        if self._is_best(found):
            at.best_epoch = at.epoch
            self.best = {name: value.detach().clone() for name, value in self.values.items()}
        at.epoch, at.batch, at.loss_sum, at.weight_sum = at.epoch + 1, 0, 0.0, 0.0
        self._save()
        self.events({"event": "epoch", **entry, "is_best": at.best_epoch == entry["epoch"]})
        return "interrupted" if self.is_stop_asked() and at.epoch < self.config.epochs else "finished"

    def _is_best(self, found: Validation) -> bool:
        if self.progress.best_epoch < 0:
            return True
        best = self.progress.history[self.progress.best_epoch]
        return (found.score, -found.loss) > (best["validation_score"], -best["validation_loss"])

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._started
        self._started = now

    def _save(self) -> None:
        self._count_time()
        if self.checkpoint:
            save_checkpoint(self.checkpoint, self.progress, self.values, self.best, self.optimiser)
        self._saved = self._started = time.perf_counter()
