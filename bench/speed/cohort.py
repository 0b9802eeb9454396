"""Several prompts trained together beside the same ones trained alone, each with its own cache: seconds and memory.

Each side runs in a process of its own, sides in turn for some rounds, so that a slow minute meets both. Alone, members
are trained one after another in one process, each filling a fresh cache; a run's seconds are those of reading its
inputs, training and validation, without loading the model. Peak memory alone is that of one member.

    python bench/speed/cohort.py --data DIR --members 8 --vary lr --repeats 3 --threads 2
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from overture.core.files import write_json
from overture.core.meter import Meter
from overture.data.encode import Encoder
from overture.engine.cache import InputCache
from overture.engine.cohort import Cohort
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import score
from overture.evaluate.source import prompt_source
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.registry import own_rate
from overture.train.fit import Fit, FitResult, FitTogether, Validation
from overture.train.options import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from speed import cpu_name, spread, versions
from tasks import WORDINGS, decoder_task, rows_of

RESULTS = Path(__file__).parents[1] / "results" / "cohort"
SIDES = ("together", "alone", "one alone")


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers, apart from the machine.

    Args:
        vary: what members differ in: ``lr`` (same rows in the same order) or ``seed`` (other orders and starts).
    """

    task: str
    method: str
    place: str
    vary: str
    num_members: int
    num_rows: int
    num_validation: int
    epochs: int
    threads: int
    shared_tokens: int
    length: int = 10

    @property
    def name(self) -> str:
        return f"{self.task}-{self.method}-{self.place}-{self.num_members}-{self.vary}"

    def command(self, num_repeats: int) -> str:
        """What to type to measure it again."""
        return (
            f"python bench/speed/cohort.py --data DIR --task {self.task} --method {self.method} --place {self.place} "
            f"--vary {self.vary} --members {self.num_members} --rows {self.num_rows} "
            f"--validation {self.num_validation} --epochs {self.epochs} --shared-tokens {self.shared_tokens} "
            f"--repeats {num_repeats} --threads {self.threads}"
        )


class Bench:
    """The model with rows, ready to train some members."""

    def __init__(self, config: Config, data: Path) -> None:
        torch.set_num_threads(config.threads)
        self.config, self.backbone = config, load_backbone("smollm2", device="cpu", dtype="float32")
        self.task = decoder_task(config.task)
        self.encoder = Encoder(self.task, self.backbone.tokenizer)
        train = random.Random(0).sample(rows_of(config.task, data, "train"), config.num_rows)
        self.train = self.encoder.encode(train)
        self.validation = self.encoder.encode(rows_of(config.task, data, "validation")[: config.num_validation])

    def trained(self, numbers: Sequence[int]) -> list[FitResult]:
        """Members trained together over one fresh cache."""
        config = self.config
        prompt = PromptConfig(method=config.method, place=config.place, length=config.length)
        rate, cache = own_rate(prompt), InputCache()
        source = prompt_source(self.backbone, self.encoder)
        seeds = [number if config.vary == "seed" else 0 for number in numbers]
        models = [PromptedModel(self.backbone, build_prompt(prompt, source, seed), cache) for seed in seeds]
        for rows in (self.train, self.validation):
            models[0].warm(rows)

        def validate(which: Sequence[int]) -> list[Validation]:
            some = [models[number] for number in which]
            scorers = Cohort(some).scorers(config.shared_tokens) if len(some) > 1 else some
            found = [score(scorer, self.validation, self.task) for scorer in scorers]
            return [Validation(each.value(self.task), each.loss) for each in found]

        fits = []
        for number, seed, model in zip(numbers, seeds, models, strict=True):
            lr = rate * 0.8**number if config.vary == "lr" else rate
            train = TrainConfig(epochs=config.epochs, lr=lr, patience=config.epochs, shared_tokens=config.shared_tokens)
            fits.append(Fit(model, self.train, lambda: Validation(0, 0), train, seed, key=str(number)))
        return FitTogether(fits, Cohort(models), validate).run()


def side_of(side: str, config: Config, data: str) -> dict[str, Any]:
    """Seconds and peak memory of one side; run in a fresh process."""
    bench = Bench(config, Path(data))
    meter, started, cpu = Meter(), time.perf_counter(), time.process_time()
    numbers = list(range(config.num_members if side != "one alone" else 1))
    results = []
    for part in [numbers] if side != "alone" else [[number] for number in numbers]:
        results += bench.trained(part)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": meter.peak_bytes,
        "training_seconds": sum(found.progress.seconds for found in results),
        "scores": [found.progress.history[-1].validation_score for found in results],
        "losses": [found.progress.history[-1].validation_loss for found in results],
    }


def result_of(config: Config, data: Path, num_repeats: int) -> dict[str, Any]:
    started, load = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
    rounds = []
    for number in range(num_repeats):
        found = {}
        for side in SIDES:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found[side] = pool.submit(side_of, side, config, str(data)).result()
            shown = found[side]
            print(
                f"{config.name} round {number}: {side} {shown['seconds']:.1f} s, {shown['peak_bytes'] >> 20} MiB",
                flush=True,
            )
        rounds.append(found)
    return {
        "config": asdict(config),
        "command": config.command(num_repeats),
        "started_at": started,
        "load_at_start": load,
        "seconds": {side: spread([found[side]["seconds"] for found in rounds]) for side in SIDES},
        "time_ratio": spread([found["together"]["seconds"] / found["alone"]["seconds"] for found in rounds]),
        "memory_ratio": spread(
            [found["together"]["peak_bytes"] / found["one alone"]["peak_bytes"] for found in rounds]
        ),
        "rounds": rounds,
        "versions": versions(),
        "machine": {"cpu": cpu_name(), "num_cpus": os.cpu_count()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with TASK/train.jsonl and TASK/validation.jsonl"
    )
    parser.add_argument("--task", choices=WORDINGS, default="movie")
    parser.add_argument("--method", default="prefix")
    parser.add_argument("--place", default="after")
    parser.add_argument("--vary", choices=("lr", "seed"), default="lr", help="what the members differ in")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--validation", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shared-tokens", type=int, default=TrainConfig().shared_tokens)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    config = Config(
        args.task,
        args.method,
        args.place,
        args.vary,
        args.members,
        args.rows,
        args.validation,
        args.epochs,
        args.threads,
        args.shared_tokens,
    )
    found = result_of(config, args.data, args.repeats)
    write_json(args.out / f"{config.name}.json", found)
    print({key: found[key] for key in ("time_ratio", "memory_ratio")})


if __name__ == "__main__":
    main()
