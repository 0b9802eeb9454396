"""The whole server beside the engine in one process: the same requests, in both 16 at a time, each as soon as one ends.

Half of them are for labels, half for answers of 24 tokens, on texts of 36 tokens that nobody asked about before, each
under one of 16 prompts. The server's requests come over HTTP, answers as streams. Both take turns; a round warms up.
Seconds by the clock, and the processor's: of the server those of gateway and worker.

    python bench/serve/beside_engine.py [--requests 64] [--repeats 5]
"""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from overture.core.files import write_json
from overture.core.records.serving import Command, Request, WorkerOptions
from overture.engine.load import load_backbone
from overture.evaluate.host import Host
from overture.server.process import for_serving, tokens_per_second
from overture.server.worker import Worker
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from load import NUM_CLIENTS, NUM_PROMPTS, Heard, Load, make_store
from servers import OVERTURE, Server, free_port, started

from common import in_own_process, machine_facts, script_parser, spread, start_facts

Row = tuple[str, bool, int]


class Engine:
    """The worker in this process, without a gateway."""

    def __init__(self, store: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        served = for_serving(load_backbone("smollm2", device="cpu", dtype="float32"))
        self.worker = Worker(Host(served, Store(store)), WorkerOptions(store=str(store)), tokens_per_second(served))
        self.numbers = iter(range(1 << 30))

    def answered(self, rows: Iterable[Row]) -> int:
        """How many rows are answered."""
        left, num_running, num_done = iter(rows), 0, 0
        while True:
            while num_running < NUM_CLIENTS and (row := next(left, None)):
                text, is_label, number = row
                name, want = (f"label{number}", "answer") if is_label else (f"write{number}", "write")
                request = Request(id=f"r{next(self.numbers)}", prompts=(f"{name}@1",), row={"text": text}, want=want)
                self.worker.do(Command(do="ask", id=request.id, request=request))
                num_running += 1
            if not num_running:
                return num_done
            self.worker.step()
            events = self.worker.report().events
            assert not any(event.kind == "error" for event in events), events
            num_running -= (ended := sum(event.kind == "done" for event in events))
            num_done += ended


async def answered(load: Load, rows: Iterable[Row]) -> int:
    """How many rows the server answers."""
    left, heard = iter(rows), Heard()

    async def asking() -> None:
        for text, is_label, number in left:
            status, _ = await (load.label if is_label else load.write)(text, number, heard)
            heard.statuses[status] += 1

    await asyncio.gather(*(asking() for _ in range(NUM_CLIENTS)))
    return heard.statuses[200]


def rounds_of(engine: Engine, server: Server, texts: list[str], options: Any) -> list[dict[str, dict[str, float]]]:
    """Seconds of both, round by round."""
    chance, rounds = random.Random(0), []

    def rows() -> list[Row]:
        made = [
            (texts.pop(), number % 2 == 0, chance.randrange(NUM_PROMPTS // 2)) for number in range(options.num_rows)
        ]
        chance.shuffle(made)
        return made

    def of_server() -> int:
        async def asked() -> int:
            load = Load(server.url, [])
            num = await answered(load, rows())
            await load.client.aclose()
            return num

        return asyncio.run(asked())

    ways = {
        "engine": (lambda: engine.answered(rows()), time.process_time),
        "server": (of_server, lambda: server.cpu_seconds),
    }
    for _ in range(options.num_repeats + 1):
        record = dict[str, dict[str, float]]()
        for name, (work, cpu) in ways.items():
            before, begin = cpu(), time.monotonic()
            assert work() == options.num_rows
            record[name] = {"seconds": time.monotonic() - begin, "cpu_seconds": cpu() - before}
        rounds.append(record)
        print(
            {name: {key: round(value, 2) for key, value in part.items()} for name, part in record.items()}, flush=True
        )
    return rounds[1:]


def texts_of(store: Path, num: int) -> list[str]:
    """Texts, and the prompts in a store."""
    texts = list[str]()
    make_store(store, texts, num)
    return texts


def main() -> None:
    parser = script_parser(__doc__, "serve", threads=1)
    parser.add_argument("--requests", type=int, default=64, dest="num_rows")
    parser.add_argument("--repeats", type=int, default=5, dest="num_repeats")
    options = parser.parse_args()
    facts = start_facts()
    with tempfile.TemporaryDirectory() as folder:
        texts = in_own_process(texts_of, Path(folder), 2 * options.num_rows * (options.num_repeats + 1))
        engine, port = Engine(Path(folder), options.threads), free_port()
        command = [*OVERTURE, "serve", "--store", folder, "--port", str(port), "--quiet"]
        with started(command, port, options.threads, "/ready") as server:
            rounds = rounds_of(engine, server, texts, options)
    ratios = {
        key: spread([record["engine"][key] / record["server"][key] for record in rounds]) for key in rounds[0]["engine"]
    }
    command_line = f"python bench/serve/beside_engine.py --requests {options.num_rows} --repeats {options.num_repeats}"
    result = {"throughput_of_engine": ratios, "rounds": rounds}
    write_json(options.out / "beside_engine.json", {"command": command_line, **facts, **result, **machine_facts()})


if __name__ == "__main__":
    main()
