"""Several prompts trained together beside the same ones trained alone, each with its own cache: seconds and memory.

Each side runs in a process of its own, sides in turn for some rounds, so that a slow minute meets both. Alone, members
are trained one after another in one process, each filling a fresh cache; a run's seconds are those of reading its
inputs, training and validation, without loading the model. Peak memory alone is that of one member.

    python bench/speed/cohort.py --data DIR --members 8 --vary lr --repeats 3 --threads 2
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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

from common import add_data, in_own_process, machine_facts, script_parser, spread, start_facts, timed
from tasks import WORDINGS, decoder_task, rows_of

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
        self.encoder = Encoder(self.task, self.backbone.text.tokenizer)
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
            scorers = [models[number] for number in which]
            if len(scorers) > 1:
                scorers = Cohort(scorers).scorers(config.shared_tokens)
            scores = [score(scorer, self.validation, self.task) for scorer in scorers]
            return [Validation(scored.value(self.task), scored.loss) for scored in scores]

        fits = []
        for number, seed, model in zip(numbers, seeds, models, strict=True):
            lr = rate * 0.8**number if config.vary == "lr" else rate
            train = TrainConfig(epochs=config.epochs, lr=lr, patience=config.epochs, shared_tokens=config.shared_tokens)
            fits.append(Fit(model, self.train, lambda: Validation(0, 0), train, seed, key=str(number)))
        return FitTogether(fits, Cohort(models), validate).run()


def side_of(side: str, config: Config, data: Path) -> dict[str, Any]:
    """Seconds and peak memory of one side; run in a fresh process."""
    bench = Bench(config, data)
    meter = Meter()
    numbers = list(range(config.num_members if side != "one alone" else 1))
    cohorts = [numbers] if side != "alone" else [[number] for number in numbers]
    results, seconds = timed(lambda: [result for cohort in cohorts for result in bench.trained(cohort)])
    return {
        **seconds,
        "peak_bytes": meter.peak_bytes,
        "training_seconds": sum(result.progress.seconds for result in results),
        "scores": [result.progress.history[-1].validation_score for result in results],
        "losses": [result.progress.history[-1].validation_loss for result in results],
    }


def result_of(config: Config, data: Path, num_repeats: int) -> dict[str, Any]:
    started, rounds = start_facts(), []
    for number in range(num_repeats):
        sides = {side: in_own_process(side_of, side, config, data) for side in SIDES}
        shown = ", ".join(f"{side} {r['seconds']:.1f} s {r['peak_bytes'] >> 20} MiB" for side, r in sides.items())
        print(f"{config.name} round {number}: {shown}", flush=True)
        rounds.append(sides)
    memory = [sides["together"]["peak_bytes"] / sides["one alone"]["peak_bytes"] for sides in rounds]
    return {
        "config": asdict(config),
        "command": config.command(num_repeats),
        **started,
        "seconds": {side: spread([sides[side]["seconds"] for sides in rounds]) for side in SIDES},
        "time_ratio": spread([sides["together"]["seconds"] / sides["alone"]["seconds"] for sides in rounds]),
        "memory_ratio": spread(memory),
        "rounds": rounds,
        **machine_facts(),
    }


def main() -> None:
    parser = script_parser(__doc__, "cohort")
    add_data(parser)
    parser.add_argument("--task", choices=WORDINGS, default="movie")
    parser.add_argument("--method", default="prefix")
    parser.add_argument("--place", default="after")
    parser.add_argument("--vary", choices=("lr", "seed"), default="lr", help="what the members differ in")
    parser.add_argument("--members", type=int, default=8, dest="num_members")
    parser.add_argument("--rows", type=int, default=256, dest="num_rows")
    parser.add_argument("--validation", type=int, default=256, dest="num_validation")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shared-tokens", type=int, default=TrainConfig().shared_tokens)
    options = vars(parser.parse_args())
    data, out, repeats = (options.pop(key) for key in ("data", "out", "repeats"))
    config = Config(**options)
    result = result_of(config, data, repeats)
    write_json(out / f"{config.name}.json", result)
    print({key: result[key] for key in ("time_ratio", "memory_ratio")})


if __name__ == "__main__":
    main()
