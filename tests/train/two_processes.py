"""What each of several processes trains in `test_ranks.py`; run by itself it is one of them, and writes what it got.

python two_processes.py FOLDER
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fakes import Case, make_backbone, make_prompt, make_rows
from overture.core.contracts import Reducer
from overture.core.records.events import StepEvent
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.engine.ranks import Ranks, joined
from overture.engine.split import spread
from overture.evaluate.scoring import mean_loss
from overture.train.fit import Apart, Fit, FitTogether, Validation
from overture.train.options import TrainConfig
from overture.train.reducer import OneProcess

NUM_STEPS = 20
FAMILIES = ("llama", "qwen3", "gemma2")
CASES = (Case("vectors", "before"), Case("prefix", "memory"), Case("vectors", "after"), Case("prefix", "after"))
# Parts of one step whose rows have other lengths in each process; label words of several tokens.
LENGTHS = (3, 11, 7, 2, 9, 14, 5, 8, 12, 6)
MODES = ("data", "heads", "weights")
# All cases in one family, one of live tokens and one of memory in the others.
PAIRS = [(family, case) for family in FAMILIES for case in (CASES if family == "llama" else CASES[:2])]


@dataclass(frozen=True)
class Curve:
    """Losses of each step, the values at the end, and the forward passes of training."""

    losses: list[float]
    validation: list[float]
    values: dict[str, Tensor]
    num_passes: int


def curve(family: str, case: Case, ranks: Ranks | None, dtype: torch.dtype = torch.float32) -> Curve:
    """Train a prompt for 20 steps."""
    backbone = make_backbone(family, dtype)
    if ranks:
        spread(backbone, ranks)
    model = PromptedModel(backbone, make_prompt(case, backbone), InputCache(budget_bytes=1 << 20))
    rows = make_rows("several tokens", LENGTHS, seed=5)
    model.warm(rows)
    # Passes of few tokens, so that a batch is several of them, and not as many in each process.
    config = TrainConfig(epochs=2, passes=5, batch_size=5, lr=0.02, warmup_steps=2, max_tokens=40, patience=9)
    losses: list[float] = []

    def listen(event: Any) -> None:
        losses.extend([event.loss] if isinstance(event, StepEvent) else [])

    passes = [0]

    class Counted(PromptedModel):
        def loss(self, rows: Any) -> Tensor:
            passes[0] += 1
            return super().loss(rows)

    model.__class__ = Counted

    def validate() -> Validation:
        loss = mean_loss(model, rows)
        return Validation(-loss, loss)

    fit = Fit(model, rows, validate, config, 7, events=listen)
    reducer: Reducer = ranks or OneProcess()
    FitTogether([fit], Apart([model]), lambda which: [fit.validate()], reducer=reducer).run()
    assert len(losses) == NUM_STEPS
    values = {name: value.detach().clone() for name, value in fit.values.items()}
    return Curve(losses, [epoch.validation_loss for epoch in fit.progress.history], values, passes[0])


def name_of(mode: str, family: str, case: Case) -> str:
    return f"{mode}-{family}-{case}"


def main(folder: Path) -> None:
    """All cases of all modes, one after another."""
    torch.set_num_threads(1)
    facts: dict[str, Any] = {}
    with joined(1, False, "cpu") as together:
        assert together is not None
        launch = together.launch
        for mode in MODES:
            for family, case in PAIRS:
                ranks = Ranks(launch, 2 if mode == "heads" else 1, mode == "weights", "cpu")
                trained = curve(family, case, ranks)
                name = name_of(mode, family, case)
                facts[name] = {
                    "losses": trained.losses,
                    "validation": trained.validation,
                    "summed": ranks.summed_bytes,
                    "gathered": ranks.gathered_bytes,
                    "passes": trained.num_passes,
                }
                save_file(trained.values, folder / f"{name}-{launch.rank}.safetensors")
    (folder / f"facts-{launch.rank}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
