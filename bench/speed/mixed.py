"""A batch of rows with a prompt for each, beside the same rows with none, and beside peft switching adapters.

The three ways answer the same rows in turn, round by round, in one process; ours with none and ours with as many
compiled prompts as rows run one batch, peft sets the adapter of each row and runs it alone. Two kinds of work: answers
of so many tokens, greedy and without a stop, which is what serving does, and label scores.

    python bench/speed/mixed.py --data DIR --rows 32 --new-tokens 16 --repeats 5 --threads 2
"""

import random
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from overture.core.contracts import Continuations, LabelScores
from overture.core.files import write_json
from overture.core.rows import Answer, Encoded
from overture.data.encode import Encoder
from overture.engine.compiled import compiled_prompt
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel, RowPrompts
from overture.evaluate.source import prompt_source
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser, spread, start_facts, timed
from tasks import WORDINGS, decoder_task, rows_of

Work = Callable[[], Any]


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers, apart from the machine."""

    task: str
    num_rows: int
    length: int
    new_tokens: int
    num_repeats: int
    threads: int

    @property
    def command(self) -> str:
        return (
            f"python bench/speed/mixed.py --data DIR --task {self.task} --rows {self.num_rows} --length {self.length} "
            f"--new-tokens {self.new_tokens} --repeats {self.num_repeats} --threads {self.threads}"
        )


# -- peft


def peft_model(folder: str, num_prompts: int, length: int) -> Any:
    """The model with so many prefix adapters; their values do not matter to the clock."""
    # peft asks transformers for a name that it has left behind; nothing that a reader of the output can mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
    wrapped = peft.get_peft_model(model, config, adapter_name="p0")
    for number in range(1, num_prompts):
        wrapped.add_adapter(f"p{number}", config)
    return wrapped.eval()


@torch.no_grad()
def peft_scores(model: Any, rows: Sequence[Encoded]) -> None:
    """Each row alone under its adapter; logits at the last token only."""
    for number, row in enumerate(rows):
        model.set_adapter(f"p{number}")
        ids = _ids(row)
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)


@torch.no_grad()
def peft_answers(model: Any, rows: Sequence[Encoded], new_tokens: int) -> None:
    """Each row's answer alone under its adapter, by peft's `generate` with its cache."""
    for number, row in enumerate(rows):
        model.set_adapter(f"p{number}")
        ids = _ids(row)
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
        )
        assert out.shape[1] == ids.shape[1] + new_tokens, "peft answers with as many tokens"


def _ids(row: Encoded) -> torch.Tensor:
    return torch.tensor([[*row.input_ids, *row.anchor_ids]])


# -- the three ways


class Bench:
    """The model, rows, and a compiled prompt for each of them."""

    def __init__(self, config: Config, data: Path) -> None:
        torch.set_num_threads(config.threads)
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self.config = config
        backbone = load_backbone("smollm2", device="cpu", dtype="float32")
        task = decoder_task(config.task)
        encoder = Encoder(task, backbone.text.tokenizer)
        chosen = random.Random(0).sample(rows_of(config.task, data, "train"), config.num_rows)
        self.rows = [replace(row, row=number) for number, row in enumerate(encoder.encode(chosen))]
        source = prompt_source(backbone, encoder)
        prompt = PromptConfig(method="vectors", place="before", length=config.length)
        compiled = [
            compiled_prompt(backbone, build_prompt(prompt, source, n).injection()) for n in range(config.num_rows)
        ]
        self.plain, self.mixed = PromptedModel(backbone), PromptedModel(backbone, RowPrompts(compiled))
        self.rival = peft_model(str(backbone.model.name_or_path), config.num_rows, config.length)

    def scores(self) -> dict[str, Work]:
        """Label scores of every row."""
        return {
            "none": lambda: self.plain.ask(self.rows, LabelScores()),
            "mixed": lambda: self.mixed.ask(self.rows, LabelScores()),
            "peft": lambda: peft_scores(self.rival, self.rows),
        }

    def answers(self) -> dict[str, Work]:
        """Answers of every row, all of the same number of tokens."""
        return {
            "none": lambda: self._written(self.plain),
            "mixed": lambda: self._written(self.mixed),
            "peft": lambda: peft_answers(self.rival, self.rows, self.config.new_tokens),
        }

    def _written(self, model: PromptedModel) -> None:
        # The end token ends an answer whatever is asked: with random prompts few rows write it, and their place in
        # the batch is computed all the same.
        free = [replace(row, target=Answer()) for row in self.rows]
        written = model.ask(free, Continuations(self.config.new_tokens, lambda ids: False))
        assert max(map(len, written)) == self.config.new_tokens, "the batch runs to the last token"


def measured(ways: dict[str, Work], num_repeats: int) -> dict[str, Any]:
    """Rounds of the ways in turn after a warm-up of each; ratios are taken within a round."""
    for work in ways.values():
        work()
    rounds = []
    for _ in range(num_repeats):
        rounds.append({name: timed(work)[1] for name, work in ways.items()})
        print({name: round(record["seconds"], 2) for name, record in rounds[-1].items()}, flush=True)

    def ratio(way: str) -> dict[str, float]:
        return spread([record[way]["seconds"] / record["mixed"]["seconds"] for record in rounds])

    seconds = {name: spread([record[name]["seconds"] for record in rounds]) for name in ways}
    return {"throughput_of_none": ratio("none"), "times_peft": ratio("peft"), "seconds": seconds, "rounds": rounds}


def result_of(config: Config, data: Path) -> dict[str, Any]:
    started = start_facts()
    bench = Bench(config, data)
    return {
        "config": asdict(config),
        "command": config.command,
        **started,
        "answers": measured(bench.answers(), config.num_repeats),
        "scores": measured(bench.scores(), config.num_repeats),
        **machine_facts(),
    }


def main() -> None:
    parser = script_parser(__doc__, "mixed")
    add_data(parser)
    parser.add_argument("--task", choices=WORDINGS, default="movie")
    parser.add_argument("--rows", type=int, default=32, dest="num_rows", help="rows of the batch, and prompts")
    parser.add_argument("--length", type=int, default=10, help="prompt length")
    parser.add_argument("--new-tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--repeats", type=int, default=5, dest="num_repeats")
    options = vars(parser.parse_args())
    data, out = options.pop("data"), options.pop("out")
    config = Config(**options)
    result = result_of(config, data)
    write_json(out / f"{config.task}-{config.num_rows}.json", result)
    for kind in ("answers", "scores"):
        print(kind, {key: result[kind][key] for key in ("throughput_of_none", "times_peft")})


if __name__ == "__main__":
    main()
