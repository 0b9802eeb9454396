"""Learning-rate range test: the rate grows exponentially from step to step, until the loss rises.

    lr_i = low * (high / low) ** (i / (n - 1))

The losses of single batches are noise, so while the test runs they are smoothed by an exponential mean that is
corrected for its start. The test ends when that mean has risen above its lowest by a quarter of the loss at the start.
It suggests a tenth of that rate, and nothing if the loss never rises so far.

Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3; exponential rates, smoothing
and the tenth as practised since (Gugger 2018). Deviations: an adaptive optimiser, gradients clipped as in training, a
few dozen steps on a prompt of its own that is thrown away, so the loss has little time to fall; where it falls fastest
is reported but not used, because between single batches that is mostly chance (docs/log.md).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from overture.core.contracts import Trainee
from overture.core.errors import Diverged
from overture.core.rows import Encoded
from overture.data.batches import epoch_batches, micro_batches
from overture.train.optim import OPTIMISERS
from overture.train.options import TrainConfig

_SMOOTH = 0.8
_RISEN = 0.25
_TENTH = 0.1
# How many earlier steps a smoothed loss is averaged over.
_WIDTH = 3.0


@dataclass(frozen=True, slots=True)
class RangeTest:
    """The result of a range test.

    Args:
        rates: of each step.
        losses: of each step's batch, before the step.
        smooth: the losses smoothed.
        steepest: the rate at which the smoothed loss falls fastest.
        blow_up: the rate at which the loss had risen for good; None when it never had.
        suggested: the rate to train with; None when the loss never blew up.
    """

    rates: list[float]
    losses: list[float]
    smooth: list[float]
    steepest: float
    blow_up: float | None
    suggested: float | None


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
    """Train a few steps at growing rates.

    Args:
        trainee: the model whose values are trained; they are changed, so it must be one for this test only.
        rows: training rows.
        config: batch size, optimiser and clipping; its rate, warm-up and schedule are not used.
        seed: orders the batches.
        low: the first rate.
        high: the last rate.
        steps: optimiser steps.
        is_stop_asked: called after each step; a stop ends the test with the steps so far.
        progress: called with (done, all).

    Raises:
        Diverged: the loss is not finite from the start.
    """
    values, factors = list(trainee.trainable().values()), [trainee.rates().get(n, 1.0) for n in trainee.trainable()]
    optimiser = OPTIMISERS[config.optimiser]([{"params": [value]} for value in values], low, config.weight_decay)
    rates: list[float] = []
    losses: list[float] = []
    means: list[float] = []
    mean, blow_up = 0.0, None
    for step, batch in zip(range(steps), _batches(rows, config.batch_size, seed), strict=False):
        rate = low * (high / low) ** (step / max(1, steps - 1))
        optimiser.zero_grad(set_to_none=True)
        loss, weight = 0.0, trainee.weight(batch)
        for part in micro_batches(batch, config.max_tokens):
            part_loss = trainee.loss(part) / weight
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss += float(part_loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(values, config.clip)
        if not (math.isfinite(loss) and bool(norm.isfinite())):
            blow_up = rate
            break
        mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
        rates.append(rate)
        losses.append(loss)
        means.append(mean / (1 - _SMOOTH ** (step + 1)))
        if step > steps // 4 and means[-1] > min(means) + _RISEN * max(means[: steps // 4]):
            blow_up = rate
            break
        for group, factor in zip(optimiser.param_groups, factors, strict=True):
            group["lr"] = rate * factor
        optimiser.step()
        progress(step + 1, steps)
        if is_stop_asked():
            break
    if len(rates) < 3:
        raise Diverged("the loss is not finite from the first steps on", fix="a lower --low, or another start")
    return _result_of(rates, losses, blow_up)


def _batches(rows: Sequence[Encoded], batch_size: int, seed: int) -> Iterator[list[Encoded]]:
    epoch = 0
    while True:
        yield from epoch_batches(rows, batch_size, seed, epoch)
        epoch += 1


def _result_of(rates: list[float], losses: list[float], blow_up: float | None) -> RangeTest:
    smooth = _smoothed(losses)
    logs = [math.log(rate) for rate in rates]
    inner = range(1, len(rates) - 1)
    steepest = rates[min(inner, key=lambda i: (smooth[i + 1] - smooth[i - 1]) / (logs[i + 1] - logs[i - 1]))]
    return RangeTest(rates, losses, smooth, steepest, blow_up, _TENTH * blow_up if blow_up else None)


def _smoothed(losses: Sequence[float]) -> list[float]:
    """Geometric means of each loss and those before it, with weights of half a bell.

    Later losses have no part in a mean: they grow many times as large once the rate is too high, and the curve would
    rise while the losses still fall.
    """
    smooth = []
    for index in range(len(losses)):
        weights = [math.exp(-0.5 * ((step - index) / _WIDTH) ** 2) for step in range(index + 1)]
        logs = [math.log(max(loss, 1e-12)) for loss in losses[: index + 1]]
        smooth.append(math.exp(sum(w * log for w, log in zip(weights, logs, strict=True)) / sum(weights)))
    return smooth
