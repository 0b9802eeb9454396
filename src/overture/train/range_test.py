"""Learning-rate range test: the rate grows exponentially from step to step, and the loss says where it works.

    lr_i = low * (high / low) ** (i / (n - 1))

The loss is smoothed over steps by an exponential mean that is corrected for its start. The test ends early when the
smoothed loss has blown up. Suggested is the middle, in logarithms, of where the loss falls steepest and a tenth of
where it blows up.

Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3; smoothing and the end on a
blow-up as practised since (Gugger 2018). Deviations: an adaptive optimiser, gradients clipped as in training, a few
dozen steps on a prompt of its own that is thrown away.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from overture.core.errors import Diverged
from overture.core.types import Encoded, Trainee
from overture.data.batches import epoch_batches, micro_batches
from overture.train.fit import TrainConfig
from overture.train.optim import OPTIMISERS

_SMOOTH = 0.8
_BLOW_UP = 1.5
_TENTH = 0.1


@dataclass(frozen=True, slots=True)
class RangeTest:
    """What a range test found.

    Args:
        rates: of each step.
        losses: of each step's batch, before the step.
        smooth: the losses smoothed.
        steepest: the rate at which the smoothed loss falls fastest.
        blow_up: the rate at which it had risen for good; None when it never did.
        suggested: the rate to train with.
    """

    rates: list[float]
    losses: list[float]
    smooth: list[float]
    steepest: float
    blow_up: float | None
    suggested: float


def range_test(
    trainee: Trainee,
    rows: Sequence[Encoded],
    config: TrainConfig,
    seed: int,
    low: float,
    high: float,
    steps: int,
    is_stop_asked: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RangeTest:
    """Train a few steps at growing rates; the trainee's values are changed, so hand in one of its own.

    Args:
        trainee: what is trained.
        rows: training rows.
        config: batch size, optimiser and clipping; its rate, warm-up and schedule are not used.
        seed: orders the batches.
        low: the first rate.
        high: the last rate.
        steps: optimiser steps.
        is_stop_asked: looked at after each step; what was measured so far is used.
        progress: called with (done, all).

    Raises:
        Diverged: the loss is not finite from the start.
    """
    values, factors = list(trainee.trainable().values()), [trainee.rates().get(n, 1.0) for n in trainee.trainable()]
    optimiser = OPTIMISERS[config.optimiser]([{"params": [value]} for value in values], low, config.weight_decay)
    rates: list[float] = []
    losses: list[float] = []
    smooth: list[float] = []
    mean = 0.0
    for step, batch in zip(range(steps), _batches(rows, config.batch_size, seed), strict=False):
        rate = low * (high / low) ** (step / max(1, steps - 1))
        optimiser.zero_grad(set_to_none=True)
        loss, weight = 0.0, trainee.weight(batch)
        for part in micro_batches(batch, config.max_tokens):
            one = trainee.loss(part) / weight
            one.backward()  # type: ignore[no-untyped-call]
            loss += float(one.detach())
        norm = torch.nn.utils.clip_grad_norm_(values, config.clip)
        if not (math.isfinite(loss) and bool(norm.isfinite())):
            break
        mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
        rates.append(rate)
        losses.append(loss)
        smooth.append(mean / (1 - _SMOOTH ** (step + 1)))
        if smooth[-1] > _BLOW_UP * min(smooth) and step > steps // 4:
            break
        for group, factor in zip(optimiser.param_groups, factors, strict=True):
            group["lr"] = rate * factor
        optimiser.step()
        progress(step + 1, steps)
        if is_stop_asked():
            break
    if len(rates) < 3:
        raise Diverged("the loss is not finite from the first steps on", fix="a lower --low, or another start")
    return _read(rates, losses, smooth)


def _batches(rows: Sequence[Encoded], batch_size: int, seed: int) -> Iterator[list[Encoded]]:
    epoch = 0
    while True:
        yield from epoch_batches(rows, batch_size, seed, epoch)
        epoch += 1


def _read(rates: list[float], losses: list[float], smooth: list[float]) -> RangeTest:
    lowest = smooth.index(min(smooth))
    logs = [math.log(rate) for rate in rates]
    # Slopes over three points, up to the lowest loss; the first steps tell of the start alone.
    inner = range(1, max(2, min(lowest + 1, len(rates) - 1)))
    steepest = min(inner, key=lambda i: (smooth[i + 1] - smooth[i - 1]) / (logs[i + 1] - logs[i - 1]))
    has_blown_up = smooth[-1] > _BLOW_UP * smooth[lowest]
    blow_up = rates[-1] if has_blown_up else None
    suggested = math.sqrt(rates[steepest] * _TENTH * (blow_up or rates[-1]))
    return RangeTest(rates, losses, smooth, rates[steepest], blow_up, suggested)
