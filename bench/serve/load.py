"""A whole server under load that does not wait for it: requests come by chance (Poisson), half for labels, half for
answers of 24 tokens, on texts of 36 tokens that nobody asked about before, each under one of 16 prompts.

- capacity: 16 clients, each asks again as soon as it is answered.
- steady: 80% of the capacity. Labels: time of the whole reply. Answers: time to the first token, gaps between tokens.
- overload: twice the capacity. What is answered, and whether a refused request is admitted after the stated seconds;
  the first 200 that are refused come back then, the others do not.

    python bench/serve/load.py [--capacity-s 40] [--steady-s 240] [--overload-s 150] [--max-wait 5]
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2 as httpx

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
from worker import _ANSWER, _LABELS, task_of, text_of

from common import machine_facts, script_parser, start_facts

NUM_PROMPTS, NUM_CLIENTS = 16, 16


def make_store(root: Path, texts: list[str], num_texts: int) -> None:
    """Prompts with random values, and texts of 36 tokens."""
    backbone, store = load_backbone("smollm2", device="cpu", dtype="float32"), Store(root)
    for kind, changes in (("label", _LABELS), ("write", _ANSWER)):
        task = task_of(kind, **changes)
        source = prompt_source(backbone, Encoder(task, backbone.text.tokenizer))
        prompt = PromptConfig(method="vectors", place="before", length=10)
        for number in range(NUM_PROMPTS // 2):
            facts = {"method": "vectors", "place": "before", "length": 10, "trainable": 1}
            options, ref = {"prompt": prompt.model_dump(mode="json")}, backbone_ref(backbone)
            manifest = Manifest(name=f"{kind}{number}", options=options, backbone=ref, task=task.dump(), **facts)
            store.add(manifest, prompt_tensors(build_prompt(prompt, source, number)))
    texts += [text_of(backbone, 36, seed) for seed in range(num_texts)]


@dataclass
class Heard:
    """What came of the requests."""

    labels_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    retries: list[bool] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    sent: int = 0
    end: float = float("inf")
    answered: int = 0


class Load:
    """A client of the server."""

    def __init__(self, url: str, texts: list[str]) -> None:
        limits = httpx.Limits(max_connections=900, max_keepalive_connections=100)
        self.client = httpx.AsyncClient(base_url=url, timeout=120, limits=limits)
        self.texts, self.chance = iter(texts), random.Random(0)

    async def ask(self, heard: Heard, retries: bool = False) -> None:
        text, number, is_label = next(self.texts), self.chance.randrange(NUM_PROMPTS // 2), self.chance.random() < 0.5
        heard.sent += 1
        status, retry_s = await (self.label if is_label else self.write)(text, number, heard)
        heard.statuses[status] += 1
        heard.answered += status == 200 and time.monotonic() < heard.end
        if status == 429:
            heard.waits_s.append(retry_s)
        if status == 429 and retries and retry_s and len(heard.retries) < 200:
            await asyncio.sleep(retry_s)
            again, _ = await (self.label if is_label else self.write)(text, number, Heard())
            heard.retries.append(again == 200)
            # Answered is answered, at the first time or at the second.
            heard.answered += again == 200 and time.monotonic() < heard.end

    async def label(self, text: str, number: int, heard: Heard) -> tuple[int, float]:
        """The status of a request for a label, and its `Retry-After`, 0 if there is none."""
        begin = time.monotonic()
        reply = await self.client.post("/v1/predict", json={"prompt": f"label{number}", "inputs": [text]})
        if reply.status_code == 200:
            heard.labels_s.append(time.monotonic() - begin)
        return reply.status_code, float(reply.headers.get("retry-after", 0))

    async def write(self, text: str, number: int, heard: Heard) -> tuple[int, float]:
        """The same of a request for an answer as a stream."""
        begin, times = time.monotonic(), list[float]()
        body = {"model": f"write{number}", "prompt": text, "stream": True, "logprobs": 0}
        async with self.client.stream("POST", "/v1/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {") and '"finish_reason":null' in line:
                    times.append(time.monotonic())
        if reply.status_code == 200 and times:
            heard.first_s.append(times[0] - begin)
            heard.gaps_s += [after - before for before, after in pairwise(times)]
        return reply.status_code, float(reply.headers.get("retry-after", 0))

    async def memory(self, server: Server, seconds: float) -> list[float]:
        """Megabytes of the server, read ten times within so many seconds."""
        values = []
        for _ in range(10):
            await asyncio.sleep(seconds / 10)
            values.append(server.rss_mb)
        return values

    async def closed(self, seconds: float) -> float:
        """Requests a second of so many clients."""
        heard, end = Heard(), time.monotonic() + seconds

        async def asking() -> None:
            while time.monotonic() < end:
                await self.ask(heard)

        begin = time.monotonic()
        await asyncio.gather(*(asking() for _ in range(NUM_CLIENTS)))
        return heard.answered / (time.monotonic() - begin)

    async def opened(self, rate: float, seconds: float, retries: bool = False) -> Heard:
        """Requests that come by chance, so many a second on average."""
        heard, tasks, end = Heard(), set[asyncio.Task[None]](), time.monotonic() + seconds
        when, heard.end = time.monotonic(), end
        while when < end:
            when += self.chance.expovariate(rate)
            await asyncio.sleep(max(0.0, when - time.monotonic()))
            task = asyncio.create_task(self.ask(heard, retries))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        return heard


def shares(values: list[float]) -> dict[str, float]:
    """Middle, tail and largest, in seconds."""
    ordered = sorted(values) or [float("nan")]
    quantiles = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    cut = {name: round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 3) for name, part in quantiles.items()}
    return {**cut, "n": len(values)}


async def measured(server: Server, texts: list[str], options: Any) -> dict[str, Any]:
    load = Load(server.url, texts)
    await load.closed(8)
    capacity = await load.closed(options.capacity_s)
    print("capacity", round(capacity, 2), flush=True)
    heard, steady_mb = await asyncio.gather(
        load.opened(0.8 * capacity, options.steady_s), load.memory(server, options.steady_s)
    )
    steady = {
        "requests_per_s": round(heard.sent / options.steady_s, 2),
        "labels_s": shares(heard.labels_s),
        "first_token_s": shares(heard.first_s),
        "gap_s": shares(heard.gaps_s),
        "statuses": {str(status): num for status, num in heard.statuses.items()},
        "rss_mb": steady_mb,
    }
    print("steady", json.dumps(steady), flush=True)
    heard, overload_mb = await asyncio.gather(
        load.opened(2 * capacity, options.overload_s, retries=True), load.memory(server, options.overload_s)
    )
    overload = {
        "goodput_over_capacity": round(heard.answered / options.overload_s / capacity, 3),
        "retry_after_s": shares(heard.waits_s),
        "statuses": {str(status): num for status, num in heard.statuses.items()},
        "admitted_at_retry_after": round(sum(heard.retries) / max(1, len(heard.retries)), 3),
        "retries": len(heard.retries),
        "labels_s": shares(heard.labels_s),
        "first_token_s": shares(heard.first_s),
        "rss_mb": overload_mb,
    }
    print("overload", json.dumps(overload), flush=True)
    await load.client.aclose()
    return {"capacity_per_s": round(capacity, 2), "steady": steady, "overload": overload}


def main() -> None:
    parser = script_parser(__doc__, "serve", threads=1)
    for name, seconds in (("capacity", 40.0), ("steady", 240.0), ("overload", 150.0)):
        parser.add_argument(f"--{name}-s", type=float, default=seconds)
    parser.add_argument("--max-wait", type=float, default=5.0)
    options = parser.parse_args()
    facts, texts = start_facts(), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder), texts, 8000)
        port = free_port()
        words = ["serve", "--store", folder, "--port", str(port), "--quiet", "--max-wait", str(options.max_wait)]
        with started([*OVERTURE, *words], port, options.threads, "/ready") as server:
            result = asyncio.run(measured(server, texts, options))
    command_line = f"python bench/serve/load.py --capacity-s {options.capacity_s:g} --steady-s {options.steady_s:g} "
    command_line += f"--overload-s {options.overload_s:g} --max-wait {options.max_wait:g} --threads {options.threads}"
    write_json(options.out / "load.json", {"command": command_line, **facts, **result, **machine_facts()})


if __name__ == "__main__":
    main()
