"""A batch of rows with a prompt for each, beside the same rows with none, and beside peft switching adapters.

The three ways answer the same rows in turn, round by round, in one process: ours with none and ours with as many
compiled prompts as rows both read label scores in one batch; peft sets the adapter of each row and runs it alone.

    python bench/mixed.py --data DIR --rows 32 --repeats 5 --threads 2
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from overture.core.files import write_json
from overture.core.types import Encoded
from overture.data import Encoder, Task
from overture.engine import PromptedModel, load_backbone
from overture.engine.prompted import RowPrompts
from overture.evaluate.source import prompt_source
from overture.prompt import PromptConfig, build_prompt
from quality import TASKS, rows_of
from speed import cpu_name, spread, versions

RESULTS = Path(__file__).parent / "results" / "mixed"


def peft_model(folder: str, num_prompts: int, length: int) -> Any:
    """The model with so many prefix adapters; their values do not matter to the clock."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
    wrapped = peft.get_peft_model(model, config, adapter_name="p0")
    for number in range(1, num_prompts):
        wrapped.add_adapter(f"p{number}", config)
    return wrapped.eval()


@torch.no_grad()
def peft_switching(model: Any, rows: list[Encoded]) -> None:
    """Each row alone under its adapter; logits at the last token only."""
    for number, row in enumerate(rows):
        model.set_adapter(f"p{number}")
        ids = torch.tensor([[*row.input_ids, *row.anchor_ids]])
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, default="movie")
    parser.add_argument("--rows", type=int, default=32, help="rows of the batch, and prompts")
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    backbone = load_backbone("smollm2", device="cpu", dtype="float32")
    task = Task(name=args.task, data={"train": "unused.jsonl"}, **TASKS[args.task])
    encoder = Encoder(task, backbone.tokenizer)
    chosen = random.Random(0).sample(rows_of(task, args.data, "train"), args.rows)
    rows = [replace(row, row=number) for number, row in enumerate(encoder.encode(chosen))]
    source, config = (
        prompt_source(backbone, encoder),
        PromptConfig(method="vectors", place="before", length=args.length),
    )
    compiled = [backbone.compile(build_prompt(config, source, seed).injection()) for seed in range(args.rows)]
    plain, mixed = PromptedModel(backbone), PromptedModel(backbone, RowPrompts(compiled))
    rival = peft_model(str(backbone.model.name_or_path), args.rows, args.length)
    ways: dict[str, Callable[[], Any]] = {
        "none": lambda: plain.label_scores(rows),
        "mixed": lambda: mixed.label_scores(rows),
        "peft": lambda: peft_switching(rival, rows),
    }
    for work in ways.values():
        work()
    rounds = []
    for _ in range(args.repeats):
        rounds.append({name: timed(work) for name, work in ways.items()})
        print({name: round(seconds, 2) for name, seconds in rounds[-1].items()}, flush=True)
    found = {
        "config": {"task": args.task, "rows": args.rows, "length": args.length, "threads": args.threads},
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "throughput_of_none": spread([each["none"] / each["mixed"] for each in rounds]),
        "times_peft": spread([each["peft"] / each["mixed"] for each in rounds]),
        "rounds": rounds,
        "versions": versions(),
        "machine": {"cpu": cpu_name()},
    }
    write_json(args.out / f"{args.task}-{args.rows}.json", found)
    print({key: found[key] for key in ("throughput_of_none", "times_peft")})


if __name__ == "__main__":
    main()
