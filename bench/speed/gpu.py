"""Training on a GPU: our ways beside peft's prompt tuning on random weights of known shapes, and cohorts.

No download: weights, rows and label words are random, so losses mean nothing and times mean what they would. Each way
trains the same rows in batches of the same size; ours with the loop of a run, peft with a plain one. After a warm-up
the ways take turns for some rounds. Model FLOP utilisation is 4 x body parameters x live tokens (2 forward, 2 backward,
since the weights are frozen) over the seconds, as a share of the best matrix product measured in the same run.

    python bench/speed/gpu.py --shape 1b --repeats 5
    python bench/speed/gpu.py --shape 8b --repeats 5 --cohorts 1 4 16
    python bench/speed/gpu.py --shape 1b --repeats 5 --compile-layers
    python bench/pages/report.py

Shape letters: B rows, L length, D width.
"""

import argparse
import gc
import random
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from tokenizers import Tokenizer as Inner
from tokenizers import models

from overture.core.files import write_json
from overture.core.meter import Meter
from overture.core.rows import Candidates, Encoded, OneOf
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.cohort import Cohort
from overture.engine.frontends.text import text_backbone
from overture.engine.prompted import PromptedModel
from overture.engine.tokenizer import Tokenizer
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.source import PromptSource
from overture.train.fit import Fit, FitTogether, Validation
from overture.train.options import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import RESULTS, machine_facts, script_parser, spread, start_facts, timed
from speed_ways import built_cache, num_live_tokens, padded_batch

WAYS = (("vectors", "before"), ("vectors", "after"), ("prefix", "after"))
OURS = {f"{method}/{place}": (method, place) for method, place in WAYS}
RIVAL = "peft prompt tuning"
COHORT_WAYS = ("vectors/before", "prefix/after")
ANCHOR = 8

# Llama-3.2-1B and Llama-3.1-8B, from their config.json; tiny is for a try on the CPU.
FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings"),
)
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": dict(zip(FIELDS, (32, 64, 2, 4, 2, 8, 300, True), strict=True)),
    "1b": dict(zip(FIELDS, (2048, 8192, 16, 32, 8, 64, 128256, True), strict=True)),
    "8b": dict(zip(FIELDS, (4096, 14336, 32, 32, 8, 128, 128256, False), strict=True)),
}


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's numbers, apart from the machine."""

    shape: str
    device: str
    dtype: str
    num_rows: int
    num_tokens: int
    batch_size: int
    length: int
    num_repeats: int
    cohorts: tuple[int, ...]
    compile_layers: bool = False
    seed: int = 0

    @property
    def is_cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @property
    def name(self) -> str:
        """Name of the result's file."""
        return f"{self.shape}-compiled" if self.compile_layers else self.shape

    @property
    def command(self) -> str:
        cohorts = " ".join(map(str, self.cohorts))
        return (
            f"python bench/speed/gpu.py --shape {self.shape} --device {self.device} --dtype {self.dtype} --rows "
            f"{self.num_rows} --tokens {self.num_tokens} --batch {self.batch_size} --length {self.length} "
            f"--repeats {self.num_repeats} --cohorts {cohorts}{' --compile-layers' if self.compile_layers else ''}"
        )


# -- the model and the rows


def random_model(config: Config) -> Any:
    """A causal model of the shape with random weights, made on the device."""
    torch.manual_seed(config.seed)
    shape = transformers.LlamaConfig(**SHAPES[config.shape], max_position_embeddings=4096, rope_theta=500000.0)
    with torch.device(config.device):
        return transformers.AutoModelForCausalLM.from_config(shape, dtype=getattr(torch, config.dtype)).eval()


def random_rows(config: Config) -> list[Encoded]:
    """Rows of two labels whose texts have from half of the tokens to all of them."""
    chance, top = random.Random(config.seed), SHAPES[config.shape]["vocab_size"]
    words = Candidates(("no", "yes"), ((5,), (6,)), (0, 1))
    anchor = tuple(chance.choices(range(10, top), k=ANCHOR))
    rows = []
    for number in range(config.num_rows):
        num = chance.randint(config.num_tokens // 2, config.num_tokens)
        text = tuple(chance.choices(range(10, top), k=num))
        rows.append(Encoded.of_ids(number, text, anchor, OneOf(words, chance.randrange(2))))
    return rows


def backbone_of(config: Config) -> Backbone:
    # Nothing here has a spelling.
    inner = transformers.PreTrainedTokenizerFast(tokenizer_object=Inner(models.WordLevel({"?": 0}, unk_token="?")))
    name = f"random {config.shape}"
    backbone = text_backbone(random_model(config), Tokenizer(inner, 4096), id=name, weights_sha256="random")
    return backbone.with_compiled_layers() if config.compile_layers else backbone


def source_of(backbone: Backbone) -> PromptSource:
    info = backbone.info
    return PromptSource(
        hidden_size=info.hidden_size,
        embedding_norm=backbone.embedding_norm,
        embed=lambda ids: backbone.embed(ids).cpu(),
        memory_of=backbone.memory_of,
        encode=backbone.text.tokenizer.encode_plain,
        sample=backbone.text.sample,
        num_layers=info.num_layers,
        num_heads=info.num_kv_heads,
        head_dim=info.head_dim,
        memory_of_layers=backbone.memory_of_layers,
        head_rows=backbone.head_rows,
    )


# -- ways to train


def trained(models_: Sequence[PromptedModel], rows: Sequence[Encoded], config: Config) -> None:
    """An epoch of several prompts together, with the loop of a run and without validation."""
    options = TrainConfig(epochs=1, batch_size=config.batch_size, lr=1e-2, warmup_steps=0, schedule="constant")
    fits = [
        Fit(model, rows, lambda: Validation(0, 0), options, config.seed, key=str(number))
        for number, model in enumerate(models_)
    ]
    FitTogether(fits, Cohort(models_), lambda which: [Validation(0, 0)] * len(which)).run()


def prompts_of(
    backbone: Backbone, name: str, number: int, config: Config, cache: InputCache | None
) -> list[PromptedModel]:
    method, place = OURS[name]
    prompt = PromptConfig(method=method, place=place, length=config.length)
    source = source_of(backbone)
    return [PromptedModel(backbone, build_prompt(prompt, source, seed), cache) for seed in range(number)]


def peft_epoch(config: Config, rows: Sequence[Encoded]) -> tuple[Callable[[], None], int]:
    """peft's prompt tuning in the plain loop of its guides: an epoch, and how many values it trains."""
    # peft asks transformers for a name that it has left behind; nothing that a reader of the output can mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    options = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=config.length)
    model = peft.get_peft_model(random_model(config), options).eval()
    values = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(values, lr=1e-2)

    def epoch() -> None:
        for start in range(0, len(rows), config.batch_size):
            batch = padded_batch(rows[start : start + config.batch_size], 0)
            optimizer.zero_grad(set_to_none=True)
            loss = model(**{name: value.to(config.device) for name, value in batch.items()}, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(values, 1.0)
            optimizer.step()
            loss.item()

    return epoch, sum(value.numel() for value in values)


# -- measuring


def measured(work: Callable[[], object], config: Config) -> dict[str, float]:
    """Seconds, and peak bytes beyond what was there before: of the device, or of the process on the CPU."""
    before = torch.cuda.memory_allocated() if config.is_cuda else 0
    meter = Meter(config.device)

    def settled() -> None:
        work()
        if config.is_cuda:
            torch.cuda.synchronize()

    if config.is_cuda:
        torch.cuda.synchronize()
    return {"seconds": timed(settled)[1]["seconds"], "peak_bytes": meter.peak_bytes - before}


def matmul_rate(config: Config, num_tries: int = 5) -> float:
    """Best rate of the model's widest product over a batch's tokens, FLOP per second."""
    shape, num = SHAPES[config.shape], config.batch_size * config.num_tokens
    wide = {"dtype": getattr(torch, config.dtype), "device": config.device}
    batch = torch.randn(num, shape["hidden_size"], **wide)
    weight = torch.randn(shape["intermediate_size"], shape["hidden_size"], **wide)
    flop = 2 * num * shape["hidden_size"] * shape["intermediate_size"]
    num_loops = max(1, int((1e13 if config.is_cuda else 1e9) / flop))

    def products() -> None:
        for _ in range(num_loops):
            torch.nn.functional.linear(batch, weight)

    with torch.no_grad():
        products()
        return flop * num_loops / min(measured(products, config)["seconds"] for _ in range(num_tries))


def ways_of(backbone: Backbone, rows: Sequence[Encoded], config: Config) -> dict[str, Any]:
    """Every single way's median epoch, in turns, with the rate of products of the same run."""
    cache = built_cache(backbone, rows)
    work: dict[str, Callable[[], object]] = {}
    trainable: dict[str, int] = {}
    for name in OURS:
        model = prompts_of(backbone, name, 1, config, cache if name.endswith("after") else None)
        trainable[name] = sum(value.numel() for value in model[0].trainable().values())
        work[name] = lambda model=model: trained(model, rows, config)
    work[RIVAL], trainable[RIVAL] = peft_epoch(config, rows)
    rounds, rates = [], [matmul_rate(config)]
    for number in range(config.num_repeats + 1):
        records = {name: measured(epoch, config) for name, epoch in work.items()}
        print(f"{config.shape} round {number}: " + "  ".join(f"{n} {r['seconds']:.3f}" for n, r in records.items()))
        if number:  # the first round is the warm-up
            rounds.append(records)
    rates.append(matmul_rate(config))
    num_text = sum(len(row.input_ids) + len(row.anchor_ids) for row in rows)
    ways = {}
    for name in work:
        seconds = spread([records[name]["seconds"] for records in rounds])
        # In peft's loop the label word is read too; it is left out as it is of ours.
        num_live = num_live_tokens(name if name in OURS else "vectors/before", rows, config.length)
        ways[name] = {
            "seconds": seconds,
            "times_as_fast": spread([records[RIVAL]["seconds"] / records[name]["seconds"] for records in rounds]),
            "text_tokens_per_s": num_text / seconds["median"],
            "num_live_tokens": num_live,
            "utilisation": 4 * backbone.info.num_body_parameters * num_live / seconds["median"] / max(rates),
            "peak_bytes": max(records[name]["peak_bytes"] for records in rounds),
            "num_trainable_values": trainable[name],
        }
    return {"ways": ways, "matmul_flop_per_s": rates, "cache": [cache.device_used_bytes, cache.used_bytes]}


def cohort_of(backbone: Backbone, name: str, number: int, rows: Sequence[Encoded], config: Config) -> dict[str, Any]:
    """So many prompts together, and one after another; where the device has no room for them, the reason."""
    cohort = {"way": name, "members": number}
    try:
        cache = built_cache(backbone, rows)
        prompts = prompts_of(backbone, name, number, config, cache if name.endswith("after") else None)

        def alone() -> None:
            for model in prompts:
                trained([model], rows, config)

        sides: dict[str, Callable[[], None]] = {"together": lambda: trained(prompts, rows, config), "alone": alone}
        rounds = [{side: measured(work, config) for side, work in sides.items()} for _ in range(config.num_repeats + 1)]
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        torch.cuda.empty_cache()
        return {**cohort, "error": reason}
    rounds = rounds[1:]  # the first is the warm-up
    times = spread([records["alone"]["seconds"] / records["together"]["seconds"] for records in rounds])
    print(f"{config.shape} {name} x {number}: {times['median']:.2f} times as fast as one after another")
    return {
        **cohort,
        "seconds": {side: spread([records[side]["seconds"] for records in rounds]) for side in sides},
        "times_as_fast": times,
        "peak_bytes": {side: max(records[side]["peak_bytes"] for records in rounds) for side in sides},
    }


def result_of(config: Config) -> dict[str, Any]:
    started = start_facts()
    rows, backbone = random_rows(config), backbone_of(config)
    ways = ways_of(backbone, rows, config)
    gc.collect()
    facts = machine_facts()
    if config.is_cuda:
        facts["machine"] |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return {
        "config": asdict(config),
        "command": config.command,
        **started,
        "body_parameters": backbone.info.num_body_parameters,
        **ways,
        "cohorts": [
            cohort_of(backbone, name, number, rows, config) for name in COHORT_WAYS for number in config.cohorts
        ],
        **facts,
    }


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = script_parser(__doc__, "gpu")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rows", type=int, default=128, dest="num_rows")
    parser.add_argument("--tokens", type=int, default=256, dest="num_tokens", help="of the longest text")
    parser.add_argument("--batch", type=int, default=16, dest="batch_size")
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5, dest="num_repeats")
    parser.add_argument("--cohorts", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--compile-layers", action="store_true", help="ours with compiled layers; peft runs as it is")
    parser.set_defaults(out=None)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = vars(parse_arguments(words))
    out, _ = options.pop("out"), options.pop("threads")
    config = Config(**options | {"cohorts": tuple(options["cohorts"])})
    if config.shape != "tiny" and config.device == "cpu":
        raise SystemExit("this shape is for a GPU, and there is none\n  fix: --shape tiny tries the bench on the CPU")
    result = result_of(config)
    if config.shape != "tiny" or out:
        write_json((out or RESULTS / "gpu") / f"{config.name}.json", result)


if __name__ == "__main__":
    main()
