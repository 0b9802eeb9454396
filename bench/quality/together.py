"""A prompt and LoRA in one model, beside each of them alone, on the same rows. One JSON a cell, resumable.

A cell that is there is not run again; `--minutes` ends a sitting between two cells. LoRA has the rate that was best for
it alone (`peft_baseline.py`), the prompt its own, of which it has a tenth on a finished LoRA.

    python bench/quality/together.py --data DIR
    python bench/pages/methods_page.py
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from overture.engine.lora import with_lora
from overture.engine.options import LoraOptions
from overture.engine.prompted import PromptedModel
from overture.jobs.run.request import AdapterConfig, TuneConfig
from overture.jobs.run.settled import settled
from overture.jobs.run.work import Work, prepared
from overture.jobs.tune.adapted import Tuned, tuned_alone, tuned_with_adapter
from overture.prompt.config import PromptConfig
from overture.store.runs import Run

sys.path.insert(0, str(Path(__file__).parents[1]))

from cells import Lab, opened, study_parser
from common import in_time
from peft_baseline import BEST_RATES

PROMPT = PromptConfig(method="prefix", place="after", length=10)


def prompt_alone(work: Work) -> Tuned:
    model = work.fresh(work.config.prompt, work.config.seed)
    return tuned_alone(model, work.fit(model, work.config.train, work.config.seed))


def lora_alone(work: Work) -> Tuned:
    adapter, seed = adapter_of(work), work.config.seed
    model = PromptedModel(with_lora(work.backbone, LoraOptions(rank=adapter.rank, alpha=adapter.alpha), seed))
    return tuned_alone(model, work.fit(model, work.config.train, seed))


def both(work: Work) -> Tuned:
    return tuned_with_adapter(work, adapter_of(work), work.config.seed, work.config.prompt_rate, work.run.folder)


def adapter_of(work: Work) -> AdapterConfig:
    assert work.config.adapter is not None
    return work.config.adapter


@dataclass(frozen=True)
class Way:
    """One way of training.

    Args:
        tuned: trains it.
        parts: of the request that it uses, as its cells record them.
        stage: of the adapter.
    """

    tuned: Callable[[Work], Tuned]
    parts: frozenset[str] = frozenset({"prompt", "adapter"})
    stage: str = "joint"

    def request(self, lab: Lab, task: str, seed: int) -> TuneConfig:
        lora = BEST_RATES[task]
        lr = None if "prompt" in self.parts else lora
        settings = {"adapter": {"lr": lora, "stage": self.stage}} if "adapter" in self.parts else {}
        made = lab.request(task, lab.args.train_rows, seed, PROMPT.model_dump(), lr, **settings)
        # Cells record the rate.
        return made.model_copy(update={"train": made.train.model_copy(update={"lr": made.prompt_rate})})


WAYS = {
    "prompt": Way(prompt_alone, frozenset({"prompt"})),
    "lora": Way(lora_alone, frozenset({"adapter"})),
    "joint": Way(both),
    "prompt-first": Way(both, stage="prompt first"),
    "adapter-first": Way(both, stage="adapter first"),
}


def missing(lab: Lab) -> Iterator[tuple[str, str, int]]:
    """Cells that are not there: all ways of the first seed before any of the second."""
    args = lab.args
    for seed in range(args.seeds):
        for task in args.task or BEST_RATES:
            for way in args.way or WAYS:
                if not lab.file(way, task, seed).exists():
                    yield way, task, seed


def run(lab: Lab, way: str, task: str, seed: int) -> None:
    """Train one cell from nothing, inputs and all, and score it."""
    num_train, options = lab.args.train_rows, WAYS[way]
    config, before = settled(options.request(lab, task, seed), lab.store, lab.backbone), time.process_time()
    with TemporaryDirectory() as folder:
        work = prepared(Run(Path(folder)), config, lab.store, lambda: False, lab.backbone)
        tuned = options.tuned(work)
        cell = {
            "train_rows": num_train,
            "config": config.model_dump(mode="json", include={"train", *options.parts}),
            "trainable": tuned.trainable,
            "train_seconds": tuned.seconds,
            "history": [epoch.dump() for epoch in tuned.result.progress.history],
            **lab.scores(tuned.model, task, num_train, seed),
        }
    lab.keep(way, task, seed, {**cell, "cpu_seconds": time.process_time() - before})


def main() -> None:
    parser = study_parser(__doc__, "together")
    parser.add_argument("--task", action="append", choices=BEST_RATES, help="both when none is named")
    parser.add_argument("--way", action="append", choices=WAYS, help="all when none is named")
    args: argparse.Namespace = parser.parse_args()
    lab = opened(args)
    for way, task, seed in in_time(missing(lab), args.minutes):
        run(lab, way, task, seed)


if __name__ == "__main__":
    main()
