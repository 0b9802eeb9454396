"""What prompts cost in an encoder of images: reading under deep prompts, and steps of early and late ones.

    OMP_NUM_THREADS=1 python bench/vision/cost.py FOLDER@112px

Two claims are measured, in processor seconds for each image: a deep prompt of 100 vectors costs what one of 10 costs,
since it is keys and values; and a step of vectors that enter at layer 9 of 12 costs a quarter of a step through all
layers, since what is below is kept. The images are noise: no step depends on what they show.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from operator import truediv
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import machine_facts, script_parser, start_facts
from overture.core.contracts import Features, LabelScores
from overture.core.files import write_json
from overture.core.injection import Injection, Memory, Vectors
from overture.core.media import Media
from overture.core.rows import Candidates, Encoded, OneOf
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel

LENGTHS = (0, 10, 50, 100)
IMAGES = 16
LABELS = Candidates(tuple("abcde"), tuple((n,) for n in range(5)), tuple(range(5)))


Work = Callable[[], object]


def rows_of(backbone: Backbone) -> list[Encoded]:
    """Images of noise."""
    random, read = np.random.default_rng(0), backbone.text.tokenizer.segments
    images = [random.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(IMAGES)]
    return [
        Encoded(n, tuple(read(Media.of_array(image, f"image {n}"))), (), OneOf(LABELS, n % 5, read=0))
        for n, image in enumerate(images)
    ]


def reader(model: PromptedModel, rows: Sequence[Encoded], length: int) -> Work:
    """Answers under a finished deep prompt; under label vectors alone at length 0."""
    backbone, labels = model.backbone, torch.randn(5, model.backbone.info.hidden_size) / 100
    injection = Injection(labels=labels)
    if length:
        values = torch.randn(backbone.info.num_layers, length, backbone.info.hidden_size)
        with torch.no_grad():
            injection = Injection(memory=Memory(backbone.memory_of_layers(values), "memory"), labels=labels)
    # Without a prompt the states that are read would be kept, and nothing would be measured.
    prompted = PromptedModel(backbone, injection, model.cache if length else None)
    return lambda: prompted.ask(rows, LabelScores())


def stepper(model: PromptedModel, rows: Sequence[Encoded], layer: int | None) -> Work:
    """A loss and its gradient: of ten deep vectors, or of ten vectors that enter at a layer."""
    backbone, labels = model.backbone, torch.randn(5, model.backbone.info.hidden_size) / 100
    shape = (
        (10, backbone.info.hidden_size)
        if layer is not None
        else (backbone.info.num_layers, 10, backbone.info.hidden_size)
    )
    values = torch.nn.Parameter(torch.randn(shape))

    def step() -> None:
        if layer is None:
            injection = Injection(memory=Memory(backbone.memory_of_layers(values), "memory"), labels=labels)
        else:
            injection = Injection(Vectors(values, "before", layer), labels=labels)
        PromptedModel(backbone, injection, model.cache).loss(rows).backward()

    return step


def alternated(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Processor seconds for each image in each turn that the works take, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            if turn:
                seconds[name].append((time.process_time() - started) / IMAGES)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each work's turns."""
    return {name: round(statistics.median(times), 5) for name, times in seconds.items()}


def ratios(seconds: Mapping[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Times of each longer work over those of one: median of the turns' ratios, and the ratio of the least times."""
    longer = [name for name in seconds if int(name) > int(base)]
    return {
        f"{name} / {base}": {
            "median of turns": round(statistics.median(map(truediv, seconds[name], seconds[base])), 4),
            "of least": round(min(seconds[name]) / min(seconds[base]), 4),
        }
        for name in longer
    }


def main() -> None:
    """Measure, and write the result."""
    parser = script_parser(__doc__, "vision", threads=1)
    parser.add_argument("model", help="a vision encoder, with a size: FOLDER@112px")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started, backbone = start_facts(), load_backbone(options.model, notify=lambda text: None)
    rows, model = rows_of(backbone), PromptedModel(backbone, None, InputCache(1 << 28))
    model.ask(rows, Features())
    reading = alternated({str(length): reader(model, rows, length) for length in LENGTHS}, options.repeats)
    steps = {
        "deep": stepper(model, rows, None),
        **{f"vectors at layer {layer}": stepper(model, rows, layer) for layer in (0, 6, 9, 11)},
    }
    result = {"reading": medians(reading), "steps": medians(alternated(steps, options.repeats))}
    grown = ratios(reading, "10")
    print(json.dumps({**result, "ratios": grown}, indent=2))
    facts = {**machine_facts(), **started, "images": IMAGES, "threads": options.threads, "repeats": options.repeats}
    write_json(options.out / "cost.json", {**facts, "cpu_seconds_per_image": result, "reading_ratios": grown})


if __name__ == "__main__":
    main()
