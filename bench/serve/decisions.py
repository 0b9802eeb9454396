"""System One: many typed questions about one text, asked of this server and of others in the same format.

- speed: 16 questions, each with two labels, about a text of 250 tokens that nobody asked about before, as one request
  to `POST /v1/systemone`. This server answers each question by a stored prompt at `after`; transformers' and vLLM's
  read the question's words behind the text. All have one model: Qwen3 in the shapes of SmolLM2 (vLLM answers System
  One for Qwen3 alone) with random values. Processor seconds of all processes of a server; the servers take turns.
- accuracy: test rows as questions about SmolLM2, this server's under prompts tuned on 64 rows with the defaults, and
  transformers' under the labels in words.

    python bench/serve/decisions.py [--vllm .venv-vllm/bin/python] [--repeats 10]
    python bench/serve/decisions.py --only accuracy --data DIR
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx
import torch
import transformers
from transformers import AutoModelForCausalLM, Qwen3Config

from overture.core.files import write_json
from overture.data.encode import Encoder
from overture.engine.load import load_backbone
from overture.evaluate.facts import backbone_ref
from overture.evaluate.source import prompt_source
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_tensors
from overture.store.manifest import Manifest
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers import OVERTURE, Server, free_port, started
from worker import _LABELS, _QUESTION, task_of, text_of

from common import in_own_process, machine_facts, script_parser, spread, start_facts

NUM_QUESTIONS = 16
_SHAPES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_VLLM = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
_ASKED = {
    "movie": ("Is this film review positive or negative?", "text"),
    "trec": ("What does this question ask for?", "text"),
}


def made(folder: Path, num_texts: int) -> list[str]:
    """A model of random values, a store of prompts on it, and texts."""
    transformers.utils.logging.disable_progress_bar()
    small = load_backbone("smollm2", device="cpu", dtype="float32")
    known, files = small.model.config, Path(str(small.model.name_or_path))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**{name: getattr(known, name) for name in _SHAPES}))
    model.save_pretrained(folder / "model")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(files / file, folder / "model" / file)
    backbone = load_backbone(str(folder / "model"), device="cpu", dtype="float32")
    store, task = Store(folder / "store"), task_of("served", **_LABELS)
    source = prompt_source(backbone, Encoder(task, backbone.text.tokenizer))
    prompt = PromptConfig(method="vectors", place="after", length=10)
    for number in range(NUM_QUESTIONS):
        facts = {"method": "vectors", "place": "after", "length": 10, "trainable": 1}
        options, ref = {"prompt": prompt.model_dump(mode="json")}, backbone_ref(backbone)
        manifest = Manifest(name=f"q{number}", options=options, backbone=ref, task=task.dump(), **facts)
        store.add(manifest, prompt_tensors(build_prompt(prompt, source, number)))
    return [text_of(small, 250, seed) for seed in range(num_texts)]


def commands(folder: Path, model: str, ours: str, vllm: str | None) -> dict[str, tuple[list[str], str, dict[str, str]]]:
    """How each server starts, the path that tells when it is ready, and its variables."""
    port = str(free_port())
    serve = [*OVERTURE, "serve", "--store", str(folder / "store"), "--port", port, "--backbone", ours]
    ways = {"overture": ([*serve, "--quiet"], "/ready", dict[str, str]())}
    cli = [sys.executable, "-m", "transformers.cli.transformers"]
    options = ["--device", "cpu", "--dtype", "float32", "--port", str(free_port()), "--log-level", "error"]
    ways["transformers"] = ([*cli, "serve", model, *options], "/health", {"HF_HUB_OFFLINE": "1"})
    if vllm:
        entry = [vllm, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(free_port())]
        options = ["--dtype", "float32", "--max-model-len", "1024", "--block-size", "32", "--max-num-seqs", "64"]
        ways["vllm"] = ([*entry, *options, "--enable-prefix-caching", "--enforce-eager"], "/health", _VLLM)
    return ways


def running(folder: Path, model: str, options: Any, stack: ExitStack, ours: str | None = None) -> dict[str, Server]:
    """All servers, ready; `ours` is the model's name here, where it is not its folder."""
    servers = {}
    for name, (command, ready, env) in commands(folder, model, ours or model, options.vllm).items():
        port = int(command[command.index("--port") + 1])
        servers[name] = stack.enter_context(started(command, port, options.threads, ready, env))
        print(name, "is ready", flush=True)
    return servers


def decided(server: Server, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The answers to a request, and the processor seconds of the server."""
    before = server.cpu_seconds
    reply = httpx.post(server.url + "/v1/systemone", json=body, timeout=300)
    assert reply.status_code == 200, reply.text[:500]
    return reply.json()["answers"], server.cpu_seconds - before


def speed(options: Any) -> dict[str, Any]:
    rounds = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        texts = in_own_process(made, Path(folder), options.num_repeats + 2)
        model = str(Path(folder) / "model")
        servers = running(Path(folder), model, options, stack)
        labels = dict.fromkeys(_LABELS["labels"])
        questions = {
            f"q{number}": {"type": "choice", "instructions": f"{number} {_QUESTION}", "criteria": labels}
            for number in range(NUM_QUESTIONS)
        }
        for text in texts:
            body = {"model": model, "state": text, "questions": questions}
            rounds.append({name: decided(server, body)[1] for name, server in servers.items()})
            print({name: round(seconds, 2) for name, seconds in rounds[-1].items()}, flush=True)
    rounds = rounds[2:]
    cpu = {name: spread([record[name] for record in rounds]) for name in rounds[0]}
    times = {name: spread([record[name] / record["overture"] for record in rounds]) for name in rounds[0]}
    return {"cpu_seconds": cpu, "times_ours": times, "rounds": rounds}


def rows_of(data: Path, task: str, most: int) -> Iterator[dict[str, Any]]:
    lines = (data / task / "test.jsonl").read_text().splitlines()[:most]
    return map(json.loads, lines)


def accuracy(options: Any) -> dict[str, Any]:
    result = dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for task in _ASKED:
            file = Path(__file__).parents[1] / "tasks" / f"{task}.yaml"
            # The rows that count are asked of the servers below.
            sets = ["--set", "data.train_rows=64", "--set", "data.test_rows=50"]
            for part in ("train", "validation", "test"):
                sets += ["--set", f"data.{part}={options.data / task / part}.jsonl"]
            command = [*OVERTURE, "tune", str(file), *sets, "--store", f"{folder}/store", "--name", task, "--quiet"]
            subprocess.run(command, check=True)
        backbone = load_backbone("smollm2", device="cpu", dtype="float32")
        model = str(backbone.model.name_or_path)
        del backbone
        servers = running(Path(folder), model, options, stack, "smollm2")
        for task, (instructions, field) in _ASKED.items():
            labels = sorted({row["label"] for row in rows_of(options.data, task, 1000)})
            right = dict.fromkeys(servers, 0)
            rows = list(rows_of(options.data, task, options.num_rows))
            for row in rows:
                question = {"type": "choice", "instructions": instructions, "criteria": dict.fromkeys(labels)}
                body = {"model": model, "state": row[field], "questions": {task: question}}
                for name, server in servers.items():
                    right[name] += decided(server, body)[0][task]["choice"] == row["label"]
            result[task] = {"rows": len(rows), **{name: num / len(rows) for name, num in right.items()}}
            print(task, result[task], flush=True)
    return result


def main() -> None:
    parser = script_parser(__doc__, "serve", threads=1)
    parser.add_argument("--repeats", type=int, default=10, dest="num_repeats")
    parser.add_argument("--vllm", help="vLLM's Python")
    parser.add_argument("--data", type=Path, help="folder with TASK/{train,validation,test}.jsonl, for accuracy")
    parser.add_argument("--rows", type=int, default=300, dest="num_rows")
    parser.add_argument("--only", choices=["speed", "accuracy"], default="speed")
    options = parser.parse_args()
    started_at = start_facts()
    result = speed(options) if options.only == "speed" else accuracy(options)
    given = f"--repeats {options.num_repeats}" + (" --vllm PYTHON" if options.vllm else "")
    command = f"python bench/serve/decisions.py {given if options.only == 'speed' else '--only accuracy --data DIR'}"
    facts = {"command": command, "threads": options.threads, **started_at}
    write_json(options.out / f"decisions-{options.only}.json", {**facts, **result, **machine_facts()})


if __name__ == "__main__":
    main()
