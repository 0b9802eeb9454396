"""Seconds, memory and share of the arithmetic limit: our ways to train a prompt beside peft's, in one run.

Every way trains on the same rows with the same model, batch size, prompt length and number of steps. After one
warm-up epoch each, the ways take turns for several rounds, so that a slow minute of the machine meets them all;
ratios are taken within a round. Several precisions take turns as well; each gets a file of its own, in which its ways
stand beside those of the first. On a machine with other work `--clock cpu_seconds` counts the processor's seconds.
peft runs the plain loop of its guides: `AutoModelForCausalLM` under `get_peft_model`, batches in random order padded
on the right, labels of -100 everywhere but at the label word, AdamW.

    python bench/speed/speed.py --data DIR --task movie --task bbc --threads 2
    python bench/speed/speed.py --data DIR --task movie --threads 1 --dtype float32 --dtype bfloat16 --clock cpu_seconds
    python bench/pages/report.py
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overture.core.errors import UserError
from overture.core.files import sha256_file, write_json
from overture.core.meter import Meter
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.engine.backbone import Backbone
from overture.engine.load import load_backbone

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, in_own_process, machine_facts, script_parser, spread, start_facts, timed
from speed_ways import (
    NUM_ROWS,
    OURS,
    PEFT,
    RIVALS,
    Config,
    Way,
    built_cache,
    is_cached,
    num_live_tokens,
    our_way,
    peft_way,
    rival_of,
)
from tasks import WORDINGS, decoder_task, rows_of

NUM_EPOCHS_OF_A_RUN = 10


# -- measuring


@dataclass(frozen=True)
class Bench:
    """What a run is made on.

    Args:
        config: the run.
        backbone: our instance of the model.
        encoder: of the task.
        rows: training rows.
    """

    config: Config
    backbone: Backbone
    encoder: Encoder
    rows: list[Encoded]

    @property
    def folder(self) -> str:
        """Folder of the converted weights, for peft's own instance."""
        return str(self.backbone.model.name_or_path)

    def way(self, name: str) -> Way:
        if name in OURS:
            return our_way(self.backbone, self.encoder, name, self.rows, self.config)
        return peft_way(self.folder, name, self.rows, self.config)


def make_bench(config: Config, data: Path) -> Bench:
    backbone = load_backbone("smollm2", device="cpu", dtype=config.dtype)
    task = decoder_task(config.task)
    # One limit for all ways; room for the prompt is not taken from the text.
    encoder = Encoder(task, backbone.text.tokenizer)
    rows = random.Random(config.seed).sample(rows_of(config.task, data, "train"), config.num_rows)
    return Bench(config, backbone, encoder, encoder.encode(rows))


def run_round(bench: Bench, ways: dict[str, Way], number: int) -> dict[str, Any]:
    """One epoch of every way in turn, one building of the input cache, and the machine's rate of the moment."""
    cache, record = timed(lambda: built_cache(bench.backbone, bench.rows))
    done = {"input cache": record | {"bytes": cache.used_bytes, "spilled_bytes": cache.spilled_bytes}}
    for name, way in ways.items():
        if is_cached(name):
            assert way.model is not None
            way.model.answerer.cache = cache
        loss, record = timed(lambda way=way: way.epoch(number))
        done[name] = record | {"mean_loss": loss}
    rates = matmul_rates(bench)
    clock = bench.config.clock
    shown = "  ".join(f"{name} {record[clock]:.2f}" for name, record in done.items())
    print(f"{bench.config.task} {bench.config.dtype} round {number}: {shown}", flush=True)
    return {"ways": done, "matmul_flop_per_s": rates}


def matmul_rates(bench: Bench, num_tries: int = 5) -> dict[str, float]:
    """Best rate of the model's widest product, [n, D] x [D, inner], at each number n of tokens in a batch."""
    info, config = bench.backbone.info, bench.config
    inner = int(bench.backbone.model.config.intermediate_size)
    dtype = bench.backbone.dtype
    weight = torch.randn(inner, info.hidden_size).to(dtype)
    per_row = {num_live_tokens(name, bench.rows, config.length) / len(bench.rows) for name in config.ways}
    rates = {}
    for num in sorted(round(config.batch_size * tokens) for tokens in per_row):
        batch, flop = torch.randn(num, info.hidden_size).to(dtype), 2 * num * info.hidden_size * inner
        num_loops = max(1, int(5e9 / flop))
        seconds = [_seconds_of_products(batch, weight, num_loops, config.clock) for _ in range(num_tries)]
        rates[str(num)] = flop * num_loops / min(seconds)
    return rates


@torch.no_grad()
def _seconds_of_products(batch: Tensor, weight: Tensor, num_loops: int, clock: str) -> float:
    now = time.process_time if clock == "cpu_seconds" else time.perf_counter
    started = now()
    for _ in range(num_loops):
        torch.nn.functional.linear(batch, weight)
    return now() - started


def run_ten_epochs(bench: Bench, name: str) -> dict[str, float]:
    """A whole run from a fresh prompt, the building of the cache included."""
    way = bench.way(name)

    def run() -> float:
        if is_cached(name):
            assert way.model is not None
            way.model.answerer.cache = built_cache(bench.backbone, bench.rows)
        return [way.epoch(number) for number in range(NUM_EPOCHS_OF_A_RUN)][-1]

    loss, record = timed(run)
    print(f"{bench.config.task} {NUM_EPOCHS_OF_A_RUN} epochs: {name} {record['seconds']:.2f}", flush=True)
    return record | {"mean_loss_of_last": loss}


# -- peak memory, each way in a process of its own


def peak_of(name: str, config: Config, folder: str, data: Path, rows: list[Encoded]) -> dict[str, int]:
    """Peak resident bytes of loading the model and training one epoch; run in a fresh process.

    Args:
        name: the way.
        config: the run.
        folder: the model, for peft.
        data: the data folder, for ours.
        rows: the encoded rows, for peft.
    """
    torch.set_num_threads(config.threads)
    started = Meter().peak_bytes
    meter = Meter()
    if name in OURS:
        bench = make_bench(config, data)
        way = bench.way(name)
        if way.model and is_cached(name):
            way.model.answerer.cache = built_cache(bench.backbone, bench.rows)
    else:
        way = peft_way(folder, name, rows, config)
    way.epoch(0)
    return {"peak_bytes": meter.peak_bytes, "before_loading_bytes": started}


def peaks(bench: Bench, data: Path) -> dict[str, dict[str, int]]:
    found = {}
    for name in bench.config.ways:
        found[name] = in_own_process(peak_of, name, bench.config, bench.folder, data, bench.rows)
        print(f"{bench.config.task} peak memory: {name} {found[name]['peak_bytes'] / 2**20:.0f} MiB", flush=True)
    return found


# -- results


def ratios(rounds: list[dict[str, Any]], name: str, rival: str, clock: str) -> dict[str, dict[str, float]]:
    """How many times as fast as a rival, round by round: for an epoch, and for a run with the cache's building."""
    one, ten = [], []
    for done in (round_["ways"] for round_ in rounds):
        ours, theirs = done[name][clock], done[rival][clock]
        build = done["input cache"][clock] if is_cached(name) else 0.0
        one.append(theirs / ours)
        ten.append(NUM_EPOCHS_OF_A_RUN * theirs / (build + NUM_EPOCHS_OF_A_RUN * ours))
    return {"one_epoch": spread(one), "ten_epochs": spread(ten)}


def summary(bench: Bench, rounds: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """A way's numbers over the rounds."""
    clock = bench.config.clock
    raw = [measured["ways"][name][clock] for measured in rounds]
    tokens = num_live_tokens(name, bench.rows, bench.config.length, bench.config.batch_size)
    # Forward and the gradient to the inputs: two products of 2 flop per weight. Weights have no gradient.
    flop = 4 * bench.backbone.info.num_body_parameters * tokens
    best_rate = max(rate for measured in rounds for rate in measured["matmul_flop_per_s"].values())
    beside = [beside_name(way, dtype) for dtype in bench.config.others for way in (rival_of(name), name)]
    rivals = dict.fromkeys([rival_of(name), RIVALS["vectors"], *beside])
    return {
        "seconds": spread(raw),
        "raw_seconds": raw,
        "rival": rival_of(name),
        "times_as_fast_as": {rival: ratios(rounds, name, rival, clock) for rival in rivals},
        "num_live_tokens": tokens,
        "share_of_limit": flop / (statistics.median(raw) * best_rate),
        "is_cached": is_cached(name),
    }


def beside_name(way: str, dtype: str) -> str:
    """A way of another precision."""
    return f"{way}, {dtype}"


def results_of(benches: Sequence[Bench], data: Path) -> list[dict[str, Any]]:
    """Measure everything of one task, in each precision; these take turns in every round."""
    started = start_facts()
    ways = [{name: bench.way(name) for name in bench.config.ways} for bench in benches]
    rounds: list[list[dict[str, Any]]] = [[] for _ in benches]
    for number in range(benches[0].config.num_repeats + 1):
        for bench, bench_ways, bench_rounds in zip(benches, ways, rounds, strict=True):
            bench_rounds.append(run_round(bench, bench_ways, number))
            for dtype in bench.config.others:
                first = rounds[0][number]["ways"]
                bench_rounds[number]["ways"] |= {beside_name(name, dtype): first[name] for name in bench.config.ways}
    return [started | result_of(*parts, data) for parts in zip(benches, ways, rounds, strict=True)]


def result_of(bench: Bench, ways: dict[str, Way], all_rounds: list[dict[str, Any]], data: Path) -> dict[str, Any]:
    """The summaries of measured rounds, ten epochs and peaks of memory."""
    config = bench.config
    warm_up, *rounds = all_rounds
    summaries = {name: summary(bench, rounds, name) for name in ways}
    for name, way in ways.items():
        summaries[name]["num_trainable_values"] = sum(value.numel() for value in way.values)
    ways.clear()
    if config.ten_epochs:
        for name in [*PEFT, *filter(is_cached, OURS)]:
            summaries[name]["ten_epochs_run"] = run_ten_epochs(bench, name)
    for name, peak in (peaks(bench, data) if config.has_peaks else {}).items():
        summaries[name] |= peak
    return {
        **facts(bench, data),
        "cache_seconds": spread([measured["ways"]["input cache"][config.clock] for measured in rounds]),
        "cache_bytes": rounds[-1]["ways"]["input cache"]["bytes"],
        "best_matmul_flop_per_s": max(rate for measured in rounds for rate in measured["matmul_flop_per_s"].values()),
        "ways": summaries,
        "warm_up": warm_up,
        "rounds": rounds,
    }


def facts(bench: Bench, data: Path) -> dict[str, Any]:
    """What the numbers were made with."""
    config, rows = bench.config, bench.rows
    lengths = [len(row.input_ids) for row in rows]
    return {
        "task": config.task,
        "command": config.command,
        "config": asdict(config),
        "text": asdict(WORDINGS[config.task]),
        "tokens": {
            "input_mean": statistics.fmean(lengths),
            "input_max": max(lengths),
            "anchor": len(rows[0].anchor_ids),
        },
        "data_sha256": sha256_file(data / config.task / "train.jsonl"),
        "model": {key: value for key, value in asdict(bench.backbone.info).items() if key != "revision"},
        **machine_facts(),
    }


# -- command line


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, "speed")
    add_data(parser)
    parser.add_argument("--task", action="append", choices=NUM_ROWS, help="repeat for several; all when not given")
    parser.add_argument(
        "--rows", type=int, help="training rows of an epoch; 64 for movie and 32 for bbc when not given"
    )
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds after the warm-up")
    parser.add_argument("--no-peaks", action="store_true", help="leave out peak memory, a process for each way")
    parser.add_argument(
        "--same-batches", action="store_true", help="measure peft with our batches of like length as well"
    )
    parser.add_argument(
        "--dtype", action="append", choices=("float32", "bfloat16"), help="repeat for both; float32 when not given"
    )
    parser.add_argument("--clock", choices=("seconds", "cpu_seconds"), default="seconds", help="which seconds count")
    parser.add_argument("--ten-epochs", action="store_true", help="also run ten epochs end to end, as a check")
    arguments = parser.parse_args()
    for name in ("rows", "repeats", "threads"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    return arguments


def check_data(data: Path, tasks: Sequence[str]) -> None:
    missing = [name for name in tasks if not (data / name / "train.jsonl").is_file()]
    if missing:
        raise SystemExit(
            f"there is no {' and no '.join(str(data / name / 'train.jsonl') for name in missing)}\n"
            "  fix: give --data the folder that holds one folder per task, each with a train.jsonl"
        )


def main() -> None:
    arguments = parse_arguments()
    tasks = arguments.task or [*NUM_ROWS]
    check_data(arguments.data, tasks)
    torch.set_num_threads(arguments.threads)
    for task in tasks:
        first, *others = arguments.dtype or ["float32"]
        config = Config(
            task,
            arguments.rows or NUM_ROWS[task],
            arguments.repeats,
            arguments.threads,
            arguments.same_batches,
            arguments.ten_epochs,
            dtype=first,
            clock=arguments.clock,
            has_peaks=not arguments.no_peaks,
        )
        configs = [config, *(replace(config, dtype=dtype, others=(first,)) for dtype in others)]
        try:
            benches = [make_bench(config, arguments.data) for config in configs]
        except UserError as error:
            raise SystemExit(str(error)) from None
        for config, result in zip(configs, results_of(benches, arguments.data), strict=True):
            suffix = "" if config.dtype == "float32" else f"-{config.dtype}"
            write_json(arguments.out / f"{task}{suffix}.json", result)


if __name__ == "__main__":
    main()
