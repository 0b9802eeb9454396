"""The training loop: one for prompts, adapters and full fine-tuning alike, for one trainee or for several together."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypedDict, cast

import torch
from torch import Tensor

from overture.core.averaging import Averaging
from overture.core.contracts import Reducer, Trainee, Trainees
from overture.core.errors import DataError
from overture.core.records.events import DivergedEvent, EpochEvent, Listener, NoticeEvent, StepEvent, ignore
from overture.core.records.training import EpochRecord
from overture.core.records.tune import Status
from overture.core.room import Room, fitted_tokens
from overture.core.rows import Encoded
from overture.data.batches import epoch_batches, num_padded, shared_batches
from overture.train.checkpoint import Progress, load_checkpoint, rows_digest, save_checkpoint
from overture.train.memory import device_memory
from overture.train.optim import OPTIMISERS, rate_at
from overture.train.options import TrainConfig
from overture.train.reducer import OneProcess

Decide = Callable[[int, Mapping[str, Sequence[EpochRecord]]], Collection[str]]
Batches = Callable[[Sequence[Encoded], int, int, int], list[list[Encoded]]]


def check_rows(rows: Sequence[Encoded]) -> None:
    """Check that there are rows to learn from.

    Raises:
        DataError: there are no rows, or no part of one holds its answer.
    """
    if not rows:
        raise DataError(
            "nothing can be learned from the training rows",
            where="train",
            got="no answer stands in a part of its row that fits the model",
            fix="more rows, shorter ones, a larger max_length, or a model that reads more",
        )


@dataclass(frozen=True, slots=True)
class Validation:
    """A validation score: the larger the better, and the loss that breaks ties."""

    score: float
    loss: float


@dataclass(frozen=True, slots=True)
class FitResult:
    """The outcome of a training.

    Args:
        status: how it ended.
        best: the values at the best validation score.
        progress: epochs, steps, seconds and the history.
    """

    status: Status
    best: dict[str, Tensor]
    progress: Progress


class _Facts(TypedDict):
    who: str | None
    seed: int
    num_epochs: int
    num_steps: int


class Fit:
    """One training run of one trainee; it can stop after any batch and go on bit-equal.

    Args:
        trainee: the model whose values are trained.
        rows: training rows.
        validate: scores the trainee with its present values.
        config: options; ``lr`` must be set.
        seed: orders the batches.
        checkpoint: where the state is kept; nothing is kept when None.
        events: called with each event: steps, epochs, divergence, notices.
        is_stop_asked: looked at after each batch.
        who: its name in events; empty where the seed says enough.
        key: its name in a cohort's checkpoint and decisions.
        cut: makes an epoch's batches from rows, batch size, seed and epoch.
        averaging: weights of the epochs in the mean that is validated and kept instead of the values of one epoch;
            over the steps, as ``config.average`` says, where it is None.

    Attributes:
        norm: length of the last gradient, before it was clipped.

    Raises:
        DataError: there are no training rows.
    """

    def __init__(
        self,
        trainee: Trainee,
        rows: Sequence[Encoded],
        validate: Callable[[], Validation],
        config: TrainConfig,
        seed: int,
        checkpoint: Path | None = None,
        events: Listener = ignore,
        is_stop_asked: Callable[[], bool] = lambda: False,
        key: str = "0",
        who: str = "",
        cut: Batches = epoch_batches,
        averaging: Averaging | None = None,
    ) -> None:
        assert config.lr is not None
        check_rows(rows)
        self.trainee, self.rows, self.validate, self.seed = trainee, rows, validate, seed
        self.checkpoint, self.events, self.is_stop_asked, self.key = checkpoint, events, is_stop_asked, key
        self.who = who or None
        self.config, self.lr, self.cut, self.averaging = config.for_rows(len(rows)), config.lr, cut, averaging
        self.values = trainee.trainable()
        self.factors = [trainee.rates().get(name, 1.0) for name in self.values]
        # One group for each value, so that each has a rate of its own; their order is the values'.
        groups = [{"params": [value]} for value in self.values.values()]
        self.optimiser = OPTIMISERS[config.optimiser](groups, config.lr, config.weight_decay)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.mean: dict[str, Tensor] = {}
        self.num_steps = self.config.num_epochs * self.config.num_batches(len(rows))
        self.norm = 0.0

    def run(self) -> FitResult:
        """Train to the end, from the checkpoint when there is one.

        Raises:
            DiskFull: a checkpoint could not be written; the last one is intact.
        """
        trainees = Apart([self.trainee])
        return FitTogether(
            [self], trainees, lambda which: [self.validate()], self.checkpoint, self.is_stop_asked
        ).run()[0]

    @cached_property
    def rows_digest(self) -> str:
        """Fingerprint of the training rows: a checkpoint of others is refused."""
        return rows_digest(self.rows)

    @property
    def status(self) -> Status | None:
        """How it ended; None while there is more to do."""
        progress = self.progress
        if progress.ended:
            return cast(Status, progress.ended)
        if progress.epoch >= self.config.num_epochs:
            return "finished"
        is_patience_over = progress.epoch > 0 and progress.epoch - 1 - progress.best_epoch >= self.config.patience
        return "stopped early" if is_patience_over else None

    # -- the loop's parts, in their order

    def batches(self) -> list[list[Encoded]]:
        """The remaining batches of the epoch under way."""
        progress = self.progress
        first_pass, count = progress.epoch * self.config.num_passes, self.config.num_passes
        passes = [
            self.cut(self.rows, self.config.batch_size, self.seed, first_pass + number) for number in range(count)
        ]
        return [batch for batches in passes for batch in batches][progress.batch :]

    def clipped(self) -> Tensor:
        """Clip the gradient and return its length before, a scalar on the values' device."""
        return torch.nn.utils.clip_grad_norm_(list(self.values.values()), self.config.clip)

    def take_step(self, loss: float, weight: float) -> None:
        """One optimiser step with the present gradients; if loss or norm is not finite, the run ends as diverged.

        Args:
            loss: sum of the batch's losses.
            weight: the divisor of the loss.
        """
        progress = self.progress
        if not (math.isfinite(loss) and math.isfinite(self.norm)):
            self._diverged()
            return
        share = rate_at(progress.step, self.num_steps, self.config.warmup_steps, self.config.schedule)
        for group, factor in zip(self.optimiser.param_groups, self.factors, strict=True):
            group["lr"] = self.lr * share * factor
        self.optimiser.step()
        if self.config.average and not self.averaging:
            # The mean begins with the values of the first step.
            for name, value in self.values.items():
                self.mean[name] = self.mean.get(name, value).lerp(value, 1 - self.config.average).detach()
        progress.batch, progress.step = progress.batch + 1, progress.step + 1
        progress.loss_sum, progress.weight_sum = progress.loss_sum + loss, progress.weight_sum + weight
        self.events(
            StepEvent(epoch=progress.epoch, step=progress.step, loss=loss / weight, grad_norm=self.norm, **self._facts)
        )

    def _diverged(self) -> None:
        self.progress.ended = "diverged"
        self.events(DivergedEvent(epoch=self.progress.epoch, step=self.progress.step, **self._facts))

    @property
    def _facts(self) -> _Facts:
        """The fields that every event of this training has."""
        return {
            "who": self.who,
            "seed": self.seed,
            "num_epochs": self.config.num_epochs,
            "num_steps": self.num_steps,
        }

    def show_mean(self) -> dict[str, Tensor]:
        """Put the mean so far in place of the values, to be validated and kept; `show` puts the values back.

        Returns:
            The values to continue from; none without averaging.
        """
        if self.averaging is None and not self.config.average:
            return {}
        trained = {name: value.detach().clone() for name, value in self.values.items()}
        if self.averaging:
            share = self.averaging.share(self.progress.epoch + 1, self.config.num_epochs)
            self.mean = {name: self.mean.get(name, value).lerp(value, share) for name, value in trained.items()}
        self.show(self.mean)
        return trained

    @torch.no_grad()
    def show(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite the trained values, by name."""
        for name, value in values.items():
            self.values[name].copy_(value)

    def end_epoch(self, validation: Validation) -> None:
        """Record the epoch with its validation; the values are kept when they are the best so far."""
        progress = self.progress
        if not math.isfinite(validation.loss):
            self._diverged()
            return
        progress.history.append(
            EpochRecord(
                epoch=progress.epoch,
                train_loss=progress.loss_sum / progress.weight_sum,
                validation_loss=validation.loss,
                validation_score=validation.score,
                seconds=progress.seconds,
            )
        )
        best = progress.history[progress.best_epoch] if progress.best_epoch >= 0 else None
        if best is None or (validation.score, -validation.loss) > (best.validation_score, -best.validation_loss):
            progress.best_epoch = progress.epoch
            self.best = {name: value.detach().clone() for name, value in self.values.items()}
        progress.epoch, progress.batch, progress.loss_sum, progress.weight_sum = progress.epoch + 1, 0, 0.0, 0.0

    def report_epoch(self) -> None:
        """Report the epoch that ended."""
        entry = self.progress.history[-1]
        is_best = self.progress.best_epoch == entry.epoch
        self.events(EpochEvent(**entry.model_dump(), is_best=is_best, **self._facts))

    def result(self) -> FitResult:
        """The outcome; when training has ended, the best values are put back."""
        if self.status:
            self.show(self.best)
        return FitResult(self.status or "interrupted", self.best, self.progress)


class Apart:
    """Trainees that share nothing; meets `core.contracts.Trainees`."""

    def __init__(self, trainees: Sequence[Trainee]) -> None:
        self.trainees = trainees

    def groups(self, batches: Mapping[int, Sequence[Encoded]]) -> list[list[int]]:
        """Each alone."""
        return [[member] for member in batches]

    def losses(self, batches: Mapping[int, Sequence[Encoded]]) -> dict[int, Tensor]:
        """Each member's own."""
        return {member: self.trainees[member].loss(rows) for member, rows in batches.items()}


class FitTogether:
    """Several runs at one pace: a step of each at a time, in shared forward passes, and an epoch of all.

    Members keep their own values, rates, batches and best epochs, and each stops on its own; those with fewer batches
    wait for the end of the epoch. Trained alone they would be the same, but for rounding.

    Args:
        fits: the members; their own ``checkpoint``, ``is_stop_asked`` and ``validate`` are not used.
        trainees: computes their losses, by number.
        validate: scores members, by number, with their present values.
        checkpoint: where the state of all is kept; nothing is kept when None.
        is_stop_asked: looked at after each step.
        decide: called after each epoch with its number, from 0, and the histories of the running members, by key; it
            returns the keys of those that continue. All continue when None.
        reducer: sums losses and gradients over processes, which must have the same rows and seeds; each runs its share
            of every batch. Scores are the first process's, and all stop when one gets a stop.
        until: number of epochs after which running members pause, as after a stop.
    """

    def __init__(
        self,
        fits: Sequence[Fit],
        trainees: Trainees,
        validate: Callable[[Sequence[int]], Sequence[Validation]],
        checkpoint: Path | None = None,
        is_stop_asked: Callable[[], bool] = lambda: False,
        decide: Decide | None = None,
        reducer: Reducer | None = None,
        until: int | None = None,
    ) -> None:
        self.reducer, self.until = reducer or OneProcess(), until
        self.fits, self.trainees, self.validate, self.checkpoint = list(fits), trainees, validate, checkpoint
        self.is_stop_asked, self.decide = is_stop_asked, decide
        self.members = {fit.key: fit for fit in fits}
        assert len(self.members) == len(self.fits), "the keys of a cohort differ"
        self.shared_tokens = min(fit.config.shared_tokens for fit in fits)
        self.room = Room(min(fit.config.max_tokens for fit in fits), self._notice)
        self._is_fitted = not all(fit.config.fit_memory for fit in fits)
        self.checkpoint_seconds = min(fit.config.checkpoint_seconds for fit in fits)
        self._saved = time.perf_counter()

    def run(self) -> list[FitResult]:
        """Train all to their ends, from the checkpoint when there is one.

        A member's seconds are its share of the wall time: the members of a step share its time evenly.

        Raises:
            DiskFull: a checkpoint could not be written; the last one is intact.
        """
        if self.checkpoint and self.checkpoint.exists():
            load_checkpoint(self.checkpoint, self.members)
        is_going = True
        while is_going and (active := self._active(range(len(self.fits)))):
            is_going = self._epoch(active)
        return [fit.result() for fit in self.fits]

    def _active(self, which: Sequence[int]) -> list[int]:
        fits = self.fits
        going = [number for number in which if fits[number].status is None]
        return [number for number in going if self.until is None or fits[number].progress.epoch < self.until]

    def _epoch(self, active: list[int]) -> bool:
        """Train and validate one epoch; returns whether to continue."""
        remaining = {number: self.fits[number].batches() for number in active}
        while batches := {number: remaining[number].pop(0) for number in self._active(active) if remaining[number]}:
            self._fit_memory(batches)
            self._step(batches)
            if self._is_stopping() and self._active(active):
                self._save()
                return False
            if time.perf_counter() - self._saved >= self.checkpoint_seconds:
                self._save()
        return self._end_epoch(self._active(active))

    def _step(self, batches: Mapping[int, Sequence[Encoded]]) -> None:
        start = time.perf_counter()
        weights = {number: self.fits[number].trainee.weight(batch) for number, batch in batches.items()}
        totals = self._gradients(batches, weights)
        for number, weight in weights.items():
            self.fits[number].take_step(totals[number], weight)
        seconds = (time.perf_counter() - start) / len(batches)
        for number in batches:
            self.fits[number].progress.seconds += seconds

    def _gradients(self, batches: Mapping[int, Sequence[Encoded]], weights: Mapping[int, float]) -> dict[int, float]:
        """Each member's sum of losses; the gradients of their means are left in the values, clipped."""
        rank, size = self.reducer.rank, self.reducer.size
        shares = {number: share for number, batch in batches.items() if (share := batch[rank::size])}
        if self.reducer.is_lockstep:
            losses = self._backward(weights, self._in_lockstep(shares, batches))
        else:
            losses = self.room.run(partial(self._parts, shares), partial(self._backward, weights), num_of_part)
        fits = [self.fits[number] for number in weights]
        sums = torch.stack([losses[number] for number in weights])
        if size > 1:
            values = [value for fit in fits for value in fit.values.values()]
            for value in values:
                # A value that this share does not reach may have a gradient in another process.
                value.grad = torch.zeros_like(value) if value.grad is None else value.grad
            self.reducer.sum([sums, *(value.grad for value in values if value.grad is not None)])
        norms = [fit.clipped().double() for fit in fits]
        # All at once, since each read of a number waits for the device.
        numbers = torch.stack([*sums, *norms]).tolist()
        for fit, norm in zip(fits, numbers[len(fits) :], strict=True):
            fit.norm = norm
        return dict(zip(weights, numbers, strict=False))

    def _parts(self, batches: Mapping[int, Sequence[Encoded]], max_tokens: int) -> list[dict[int, list[Encoded]]]:
        """Rows by member for each forward pass."""
        parts = []
        for group in self.trainees.groups(batches):
            limit = min(self.shared_tokens, max_tokens) if len(group) > 1 else max_tokens
            parts += shared_batches({number: batches[number] for number in group}, limit)
        return parts

    def _in_lockstep(
        self, shares: Mapping[int, Sequence[Encoded]], batches: Mapping[int, Sequence[Encoded]]
    ) -> list[Mapping[int, Sequence[Encoded]]]:
        """The share's forward passes, filled up with idle ones to the number of the largest share."""
        parts: list[Mapping[int, Sequence[Encoded]]] = [*self._parts(shares, self.room.max_tokens)] if shares else []
        filler = {number: batch[:1] for number, batch in list(batches.items())[:1]}
        missing = int(self.reducer.most(len(parts))) - len(parts)
        return [*parts, *(_Idle(filler) for _ in range(missing))]

    def _backward(
        self, weights: Mapping[int, float], parts: Sequence[Mapping[int, Sequence[Encoded]]]
    ) -> dict[int, Tensor]:
        """Each member's sum of losses, a scalar; the gradients of sum over weight are left in the values."""
        sums = {}
        for number in weights:
            fit = self.fits[number]
            fit.optimiser.zero_grad(set_to_none=True)
            sums[number] = torch.zeros((), dtype=torch.float64, device=next(iter(fit.values.values())).device)
        for part in parts:
            losses = self.trainees.losses(part)
            share = 0.0 if isinstance(part, _Idle) else 1.0
            sum(share * loss / weights[number] for number, loss in losses.items()).backward()  # type: ignore[union-attr]
            for number, loss in () if isinstance(part, _Idle) else losses.items():
                sums[number] = sums[number] + loss.detach().double()
        return sums

    def _fit_memory(self, batches: Mapping[int, Sequence[Encoded]]) -> None:
        """Once, on a device with memory of its own, set the pass size to the largest that a trial says will fit."""
        if self._is_fitted:
            return
        self._is_fitted = True
        memory = device_memory(next(iter(self.fits[next(iter(batches))].values.values())).device)
        if memory is None:
            return
        weights = {number: self.fits[number].trainee.weight(batch) for number, batch in batches.items()}
        largest = max(self._parts(batches, self.room.max_tokens), key=num_of_part)
        try:
            peak_bytes = memory.peak_of(
                lambda: self._backward({number: weights[number] for number in largest}, [largest])
            )
            tokens = fitted_tokens(num_of_part(largest), peak_bytes, memory.free_bytes())
        except torch.OutOfMemoryError:
            peak_bytes, tokens = 0, 0
        # The smallest limit of all processes: those that hold one model between them must cut alike.
        tokens = -int(self.reducer.most(-tokens))
        if not tokens:
            return
        self.room.max_tokens = self.shared_tokens = tokens
        self._notice(
            f"a pass of {num_of_part(largest):,} tokens took {peak_bytes / 1e9:.2f} GB, so passes have up to {tokens:,}"
        )

    def _notice(self, text: str) -> None:
        self.fits[0].events(NoticeEvent(text=text))

    def _end_epoch(self, active: list[int]) -> bool:
        trained_values = [self.fits[number].show_mean() for number in active]
        # The first process's scores count in all of them.
        own_scores = [score for scores in (self.validate(active) if active else ()) for score in astuple(scores)]
        scores = self.reducer.from_first(own_scores)
        validations = [Validation(*pair) for pair in zip(scores[::2], scores[1::2], strict=True)]
        for number, values, validation in zip(active, trained_values, validations, strict=True):
            self.fits[number].end_epoch(validation)
            self.fits[number].show(values)
        finished = [number for number in active if self.fits[number].progress.ended != "diverged"]
        self._drop(self._active(finished))
        self._save()
        for number in finished:
            self.fits[number].report_epoch()
        return not self._is_stopping()

    def _is_stopping(self) -> bool:
        """Whether any process got a stop; all stop after the same step."""
        return self.reducer.most(float(self.is_stop_asked())) > 0

    def _drop(self, active: list[int]) -> None:
        if self.decide is None or not active:
            return
        histories = {self.fits[number].key: self.fits[number].progress.history for number in active}
        epoch = self.fits[active[0]].progress.epoch - 1
        going = set(self.decide(epoch, histories))
        for number in active:
            if self.fits[number].key not in going:
                self.fits[number].progress.ended = "dropped"

    def _save(self) -> None:
        if self.checkpoint and self.reducer.is_first:
            save_checkpoint(self.checkpoint, self.members)
        self._saved = time.perf_counter()


class _Idle(dict[int, Sequence[Encoded]]):
    """Rows that run only because another process has more of them; their losses do not count."""


def num_of_part(part: Mapping[int, Sequence[Encoded]]) -> int:
    """Padded tokens of a pass: rows of all its members times the longest."""
    return num_padded([row for rows in part.values() for row in rows])
