"""The connector for vLLM: its answers beside the local engine's, its cost, and what it survives.

Prompts of four sorts (vectors before the text, a prefix; lengths that fill blocks of vLLM and such that do not) are
kept in a store, written for vLLM, and answered under by the local worker. `engine_vllm.py`, in vLLM's own Python, then
answers the same rows.

    python bench/serve/with_vllm.py --python .venv-vllm/bin/python [--dtype bfloat16] [--only equal mixed broken writes]
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from overture.core.files import write_json
from overture.core.records.serving import Command, Request, WorkerOptions
from overture.data.encode import Encoder
from overture.engine.load import load_backbone
from overture.engine.model_files import model_files
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Ask, Host
from overture.evaluate.source import prompt_source
from overture.jobs.transfer.vllm import written_for_vllm
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_tensors
from overture.server.worker import Worker
from overture.store.manifest import Manifest
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from worker import Config as WorkerConfig
from worker import ours, task_of, text_of

from common import in_own_process, machine_facts, script_parser, start_facts

_SORTS = (("vectors", "before", 32), ("prefix", "memory", 32), ("vectors", "before", 10), ("prefix", "memory", 20))
_TASK = {"template": "{text}", "answer_field": "answer", "max_new_tokens": 16, "stop": []}


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers, apart from the machine."""

    num_rows: int
    num_mixed: int
    num_broken: int
    num_repeats: int
    dtype: str
    backbone: str
    threads: int = 1


def made(config: Config, folder: Path) -> dict[str, Any]:
    """Prompts for vLLM, and the rows with the local worker's answers."""
    torch.set_num_threads(config.threads)
    transformers.utils.logging.disable_progress_bar()
    backbone = load_backbone(config.backbone, device="cpu", dtype=config.dtype)
    backbone.info = replace(backbone.info, eos_id=None)
    store, (model, digest) = Store(folder / "store"), model_files(config.backbone)
    host = Host(backbone, store)
    task = task_of("served", **_TASK)
    source = prompt_source(backbone, Encoder(task, backbone.text.tokenizer))
    generator = torch.Generator().manual_seed(0)
    refs = []
    # Four of the first eight do not fill vLLM's blocks.
    for number in range(config.num_mixed + 4):
        method, place, length = _SORTS[number % len(_SORTS)] if number < 8 else _SORTS[number % 2]
        prompt = PromptConfig(method=method, place=place, length=length)
        values = prompt_tensors(build_prompt(prompt, source, number))
        values = {
            key: value + 0.1 * value.float().std() * torch.randn(value.shape, generator=generator)
            for key, value in values.items()
        }
        manifest = Manifest(
            name=f"p{number}",
            method=method,
            place=place,
            length=length,
            options={"prompt": prompt.model_dump(mode="json")},
            backbone=backbone_ref(backbone),
            task=task.dump(),
            trainable=1,
        )
        store.add(manifest, values)
        refs.append(f"p{number}@1")
        written_for_vllm(host.open(refs[-1]), folder / "prompts", digest)
    worker = Worker(host, WorkerOptions(store=str(store.root), slots=32), 400.0)
    rows = []
    for number in range(config.num_rows):
        ref, text = refs[number % 8], text_of(backbone, 20 + 3 * (number % 9), number)
        request = Request(id=str(number), prompts=(ref,), row={"text": text}, want="write", top_logprobs=0)
        (ask,) = host.encoded([Ask(host.open(ref), text)])
        row = ask.parts[0]
        rows.append({"prompt": ref, "length": host.open(ref).manifest.length, "ids": [*row.input_ids, *row.anchor_ids]})
        worker.do(Command(do="ask", id=request.id, request=request))
    answers: dict[str, list[Any]] = {row: [] for row in map(str, range(config.num_rows))}
    while not worker.is_idle:
        worker.step()
        for event in worker.report().events:
            assert event.kind != "error", event
            if event.kind == "token":
                answers[event.id] += [(token.id, token.logprob) for token in event.tokens]
    for number, row in enumerate(rows):
        row["answer"] = answers[str(number)]
    lengths = {ref: host.open(ref).manifest.length for ref in refs}
    return {"model": str(model), "prompts": str(folder / "prompts"), "rows": rows, "lengths": lengths}


def main() -> None:
    parser = script_parser(__doc__, "serve", threads=1)
    parser.add_argument("--python", required=True, help="vLLM's Python")
    parser.add_argument("--rows", type=int, default=100, dest="num_rows")
    parser.add_argument("--mixed", type=int, default=64, dest="num_mixed")
    parser.add_argument("--broken", type=int, default=1000, dest="num_broken")
    parser.add_argument("--repeats", type=int, default=5, dest="num_repeats")
    parser.add_argument("--backbone", default="smollm2")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--only", nargs="*", default=["equal", "mixed", "broken", "writes"])
    options = parser.parse_args()
    config = Config(
        options.num_rows,
        options.num_mixed,
        options.num_broken,
        options.num_repeats,
        options.dtype,
        options.backbone,
    )
    started = start_facts()
    with tempfile.TemporaryDirectory() as folder:
        work = in_own_process(made, config, Path(folder))
        work |= {"only": options.only, **asdict(config), "out": str(Path(folder) / "result.json")}
        (Path(folder) / "work.json").write_text(json.dumps(work))
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "OMP_NUM_THREADS": str(config.threads),
            "HF_HUB_OFFLINE": "1",
        }
        script = Path(__file__).with_name("engine_vllm.py")
        subprocess.run([options.python, str(script), str(Path(folder) / "work.json")], check=True, env=environment)
        result = json.loads((Path(folder) / "result.json").read_text())
    if "writes" in options.only and config.backbone == "smollm2":
        ours_alone = in_own_process(ours, WorkerConfig(config.num_repeats, config.threads, config.dtype))
        mine = ours_alone["cpu_seconds"]["ours"]
        theirs = result["writes"]["cpu_seconds"]
        result["writes"] |= {"ours": mine, "ours_over_vllm": mine["median"] / sorted(theirs)[len(theirs) // 2]}
    only = " ".join(options.only)
    command = f"python bench/serve/with_vllm.py --python .venv-vllm/bin/python --dtype {config.dtype} --only {only}"
    facts = {"config": asdict(config), "command": command, **started}
    name = f"vllm-{config.dtype}-{only.replace(' ', '-')}.json"
    write_json(options.out / name, {**facts, **result, **machine_facts()})


if __name__ == "__main__":
    main()
