"""A tiny model, a prompt and rows to train; the same each time it is made, in this process or another."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fakes import Case, backbone_of, make_prompt, make_rows
from overture.core.averaging import Averaging
from overture.core.records.events import Listener, ignore
from overture.core.rows import Encoded
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import mean_loss
from overture.train.fit import Apart, Fit, FitTogether, Validation
from overture.train.options import TrainConfig

CASE = Case("prefix", "after")
LENGTHS = tuple(random.Random(0).choices(range(12), k=13))


class Recorded:
    """A trainee that remembers the rows of each step.

    Args:
        case: method and place.
        break_at: the number of the loss that becomes NaN, from 0; never when None.
    """

    def __init__(self, case: Case = CASE, break_at: int | None = None) -> None:
        backbone = backbone_of("llama")
        self.model = PromptedModel(backbone, make_prompt(case, backbone), InputCache(budget_bytes=1 << 20))
        # As a run does: inputs run in groups that do not depend on where the run stands.
        self.model.warm(ROWS)
        self.break_at = break_at
        self.seen: list[tuple[int, ...]] = []

    def loss(self, rows: Sequence[Encoded]) -> Tensor:
        self.seen.append(tuple(row.row for row in rows))
        loss = self.model.loss(rows)
        return loss * torch.nan if len(self.seen) - 1 == self.break_at else loss

    def weight(self, rows: Sequence[Encoded]) -> float:
        return self.model.weight(rows)

    def rates(self) -> dict[str, float]:
        return self.model.rates()

    def trainable(self) -> dict[str, Tensor]:
        return self.model.trainable()


ROWS = make_rows("one token", LENGTHS, seed=5)


def config(**changes: Any) -> TrainConfig:
    # Copied, not checked: the tests of divergence need a rate that no user can ask for.
    usual = TrainConfig(epochs=3, batch_size=4, lr=0.05, warmup_steps=2)
    return usual.model_copy(update=changes)


def make_fit(
    trainee: Recorded,
    checkpoint: Path | None = None,
    validate: Callable[[], Validation] | None = None,
    is_stop_asked: Callable[[], bool] = lambda: False,
    events: Listener = ignore,
    averaging: Averaging | None = None,
    **changes: Any,
) -> Fit:
    def validation() -> Validation:
        loss = mean_loss(trainee.model, ROWS)
        return Validation(-loss, loss)

    options = config(**changes)
    fit = Fit(trainee, ROWS, validate or validation, options, 7, checkpoint, events, is_stop_asked, averaging=averaging)
    return fit


def one_step(fit: Fit, rows: Sequence[Encoded]) -> None:
    FitTogether([fit], Apart([fit.trainee]), lambda which: [])._step({0: rows})


def copied(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in values.items()}


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def optimiser_tensors(fit: Fit) -> dict[str, Tensor]:
    state = fit.optimiser.state_dict()["state"]
    return {f"{index}/{key}": value for index, each in state.items() for key, value in each.items()}
