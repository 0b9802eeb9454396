"""What a step costs as its sizes grow: of input, prompt, cohort and batch, and with the layer where a prompt enters.

A step is a forward and a backward pass of the loss; a batch of many prompts is scored, forward alone. Texts are random
tokens, so that lengths are exact; one-token label words; ours at `after` reads inputs that ran before the clock starts.
A cell is the median of a few repeats after a warm-up; where that took long it is the warm-up alone (n = 1). Cells are
kept one by one: the same command goes on where it stopped.

    python bench/speed/scaling.py --threads 2
"""

import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from overture.core.contracts import LabelScores
from overture.core.files import write_json
from overture.core.rows import Encoded, Tokens
from overture.data.encode import Encoder
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.cohort import Cohort
from overture.engine.compiled import compiled_prompt
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel, RowPrompts
from overture.evaluate.source import prompt_source
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import machine_facts, script_parser, spread, start_facts, timed
from mixed import peft_model
from speed_ways import Config, our_way, peft_way
from tasks import decoder_task

SIZES = {
    "input length": (16, 64, 256, 1024, 4096),
    "prompt length": (0, 10, 50, 100, 200),
    "entry layer": (1, 8, 15, 22, 29),
    "cohort size": (1, 2, 4, 8, 16),
    "prompts in a batch": (1, 2, 4, 8, 16, 32, 64),
}
# Long inputs have fewer rows, so that peft's logits at every position find room.
NUM_ROWS = {1024: 2, 4096: 1}
OURS = ("vectors/before", "prefix/after")
PEFT = ("peft prompt tuning", "peft prefix tuning")
NO_PROMPT = "no prompt, forward alone"
WAYS = {
    "input length": (*OURS, *PEFT),
    "prompt length": (*OURS, *PEFT),
    "entry layer": ("late/before",),
    "cohort size": OURS,
    "prompts in a batch": ("compiled prompts, one batch", "peft prefix tuning, switching"),
}
Work = Callable[[], Any]


@dataclass(frozen=True)
class Cell:
    """One point of one curve.

    Args:
        axis: what grows, one of `SIZES`.
        size: how large it is here.
        way: one of `WAYS`.
    """

    axis: str
    size: int
    way: str

    @property
    def length(self) -> int:
        """Prompt length."""
        return self.size if self.axis == "prompt length" else 10

    @property
    def num_input(self) -> int:
        """Input tokens of a row."""
        if self.axis == "input length":
            return self.size
        return 16 if self.axis == "prompts in a batch" else 64

    @property
    def num_rows(self) -> int:
        """Rows of a batch; of one member's, in a cohort."""
        return max(SIZES[self.axis]) if self.axis == "prompts in a batch" else NUM_ROWS.get(self.num_input, 4)

    @property
    def num_pairs(self) -> int:
        """Rows times the prompts that each is run under."""
        return self.num_rows * (self.size if self.axis == "cohort size" else 1)

    def file(self, folder: Path) -> Path:
        """Where its result is kept."""
        name = f"{self.axis} {self.size} {self.way}".replace(",", "").replace("/", "-").replace(" ", "-")
        return folder / f"{name}.json"


def cells() -> Iterator[Cell]:
    """All cells, cheap sizes first within an axis."""
    for axis, sizes in SIZES.items():
        for size in sizes:
            # Without a prompt nothing is trained, whatever the method.
            ways = WAYS[axis] if size else (NO_PROMPT,)
            yield from (Cell(axis, size, way) for way in ways)


# -- the work of a cell


class Bench:
    """The model, and what a cell's step is."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.backbone: Backbone = load_backbone("smollm2", device="cpu", dtype="float32")
        # The limit of the length is the cell's own.
        task = decoder_task("movie")
        self.encoder = Encoder(task, self.backbone.text.tokenizer)

    def rows(self, cell: Cell) -> list[Encoded]:
        """Random texts of the cell's length, with labels in turn."""
        draw = random.Random(f"{cell.num_input} {cell.num_rows}")
        (row,) = self.encoder.encode_fields([{"text": "any"}])
        vocabulary = self.backbone.info.vocab_size
        texts = [tuple(draw.randrange(100, vocabulary) for _ in range(cell.num_input)) for _ in range(cell.num_rows)]
        return [
            replace(row, row=n, input=(Tokens(text),), target=replace(row.target, label=n % 2))
            for n, text in enumerate(texts)
        ]

    def work(self, cell: Cell) -> Work:
        """What is timed."""
        rows = self.rows(cell)
        if cell.axis == "cohort size":
            return self._cohort(cell, rows)
        if cell.axis == "entry layer":
            return self._late(cell, rows)
        if cell.axis == "prompts in a batch":
            return self._scored(cell, rows)
        if cell.way == NO_PROMPT:
            plain = PromptedModel(self.backbone)
            return lambda: plain.ask(rows, LabelScores())
        return self._step(cell, rows)

    def _step(self, cell: Cell, rows: list[Encoded]) -> Work:
        config = Config("movie", cell.num_rows, 1, self.threads, length=cell.length)
        if cell.way in PEFT:
            way = peft_way(str(self.backbone.model.name_or_path), cell.way, rows, config)
        else:
            way = our_way(self.backbone, self.encoder, cell.way, rows, config)
            assert way.model is not None
            way.model.answerer.cache = self._cache(cell, rows)

        def step() -> None:
            way.optimizer.zero_grad(set_to_none=True)
            way.mean_loss(rows).backward()

        return step

    def _cohort(self, cell: Cell, rows: list[Encoded]) -> Work:
        method, place = cell.way.split("/")
        prompt = PromptConfig(method=method, place=place, length=cell.length)
        source, cache = prompt_source(self.backbone, self.encoder), self._cache(cell, rows)
        prompts = [build_prompt(prompt, source, seed) for seed in range(cell.size)]
        models = [PromptedModel(self.backbone, prompt, cache) for prompt in prompts]
        cohort, batches = Cohort(models), dict.fromkeys(range(cell.size), rows)
        assert len(cohort.groups(batches)) == 1

        def step() -> None:
            sum(cohort.losses(batches).values()).backward()

        return step

    def _late(self, cell: Cell, rows: list[Encoded]) -> Work:
        method, place = cell.way.split("/")
        prompt = PromptConfig(method=method, place=place, length=cell.length, options={"layer": cell.size})
        built = build_prompt(prompt, prompt_source(self.backbone, self.encoder), 0)
        model = PromptedModel(self.backbone, built, InputCache())
        model.warm(rows)
        return lambda: model.loss(rows).backward()

    def _scored(self, cell: Cell, rows: list[Encoded]) -> Work:
        source, share = prompt_source(self.backbone, self.encoder), cell.num_rows // cell.size
        if cell.way.startswith("peft"):
            model = peft_model(str(self.backbone.model.name_or_path), cell.size, cell.length)
            ids = torch.tensor([[*row.input_ids, *row.anchor_ids] for row in rows])
            return lambda: _switching(model, ids, share)
        prompt = PromptConfig(method="vectors", place="before", length=cell.length)
        prompts = [build_prompt(prompt, source, seed) for seed in range(cell.size)]
        with torch.no_grad():
            compiled = [compiled_prompt(self.backbone, prompt.injection()) for prompt in prompts]
        model = PromptedModel(self.backbone, RowPrompts([compiled[row.row // share] for row in rows]))
        return lambda: model.ask(rows, LabelScores())

    def _cache(self, cell: Cell, rows: Sequence[Encoded]) -> InputCache | None:
        if not cell.way.endswith("/after"):
            return None
        cache = InputCache()
        PromptedModel(self.backbone, None, cache).warm(rows)
        return cache


@torch.no_grad()
def _switching(model: Any, ids: torch.Tensor, share: int) -> None:
    """The rows of each prompt together under its adapter; logits at the last token only."""
    for number, part in enumerate(ids.split(share)):
        model.set_adapter(f"p{number}")
        model(input_ids=part, attention_mask=torch.ones_like(part), use_cache=True, logits_to_keep=1)


# -- measuring


def measured(bench: Bench, cell: Cell, num_repeats: int, longest_s: float) -> dict[str, Any]:
    """A cell's result.

    Args:
        bench: the model.
        cell: what is measured.
        num_repeats: after the warm-up.
        longest_s: a warm-up that takes longer is the measurement.
    """
    started, work = start_facts(), bench.work(cell)
    warm_up = timed(work)[1]["seconds"]
    is_warm = warm_up <= longest_s
    seconds = [timed(work)[1]["seconds"] for _ in range(num_repeats)] if is_warm else [warm_up]
    return {
        "axis": cell.axis,
        "size": cell.size,
        "way": cell.way,
        "input_tokens": cell.num_input,
        "prompt_length": cell.length,
        "rows": cell.num_rows,
        "seconds": spread(seconds),
        "is_warm": is_warm,
        "seconds_per_row": statistics.median(seconds) / cell.num_pairs,
        "threads": bench.threads,
        "command": (
            f"python bench/speed/scaling.py --repeats {num_repeats} --longest {longest_s:g} --threads {bench.threads}"
        ),
        **started,
        **machine_facts(),
    }


def main() -> None:
    parser = script_parser(__doc__, "scaling")
    parser.add_argument("--axis", choices=SIZES, action="append", help="repeat for several; all when not given")
    parser.add_argument("--largest", type=int, default=1 << 30, help="leave out larger sizes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--longest", type=float, default=5.0, help="seconds of a warm-up that is not repeated")
    args = parser.parse_args()
    left = [cell for cell in cells() if cell.axis in (args.axis or SIZES) and cell.size <= args.largest]
    left = [cell for cell in left if not cell.file(args.out).exists()]
    if not left:
        print(f"all cells are in {args.out}")
        return
    bench = Bench(args.threads)
    for cell in left:
        result = measured(bench, cell, args.repeats, args.longest)
        write_json(cell.file(args.out), result)
        print(json.dumps({key: result[key] for key in ("axis", "size", "way", "rows", "seconds")}), flush=True)


if __name__ == "__main__":
    main()
