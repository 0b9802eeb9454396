"""Requests of all kinds, prompts, lengths and tenants mixed in one worker, beside the same asked alone.

    python bench/serve/equal.py [--minutes 10] [--most 100000]

- mixed: a pool of requests (every kind of task, many methods and places, answers with log-probabilities or by chance)
  is asked alone by a worker of its own, then drawn again and again, up to twelve new ones between two steps. Each reply
  must be the one alone: labels, texts, tokens; numbers within 2e-4 (they are shown with four digits), log-probabilities
  within 1e-4. The model is a small one with random values, so that there are many requests, not long ones.
- timing: a tenant asks about texts that another tenant has just asked about, and about others: can it tell them by the
  processor seconds? The same for the tenant's own texts, to see that the measurement could tell. SmolLM2.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import torch
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "kinds"), str(Path(__file__).parents[1])]

from kind_samples import SAMPLES, task_of
from test_host import IN_DECODER, asks_of_kinds, stored
from test_worker import assert_alike, request_of

from common import in_own_process, in_time, machine_facts, script_parser, start_facts
from fakes import backbone_of
from overture.core.files import write_json
from overture.core.records.serving import Command, Event, Request, WorkerOptions
from overture.evaluate.host import Ask, Host
from overture.server.worker import Worker

FAMILY = "llama"


def worker() -> Worker:
    host = Host(backbone_of(FAMILY).with_packed_matrices())
    return Worker(host, WorkerOptions(store="none", slots=12), 400.0)


def pool(folder: Path) -> list[Request]:
    """Requests that are answered in every way."""
    host = Host(backbone_of(FAMILY))
    asks = asks_of_kinds(host, folder, FAMILY, IN_DECODER)
    requests = [request_of(n, ask) for n, ask in enumerate(asks)]
    task = task_of(SAMPLES["generation"], max_new_tokens=12)
    for number, (method, place) in enumerate(IN_DECODER):
        handle = host.open(stored(folder / f"written-{number}", FAMILY, task, method, place, seed=number))
        for row in SAMPLES["generation"].rows:
            for changes in ({}, {"temperature": 1.5, "seed": number}, {"max_new_tokens": 1 + number % 7}):
                requests.append(request_of(len(requests), Ask(handle, row), want="write", top_logprobs=1, **changes))
    return requests


def said(events: list[Event]) -> tuple[Any, ...]:
    """What a request was answered, in parts that compare."""
    kinds = Counter(event.kind for event in events)
    answers = [event.answers for event in events if event.kind == "answers"]
    text = "".join(event.text for event in events if event.kind == "token")
    tokens = [token for event in events if event.kind == "token" for token in event.tokens]
    errors = [event.message for event in events if event.kind == "error"]
    return (kinds["done"], answers, text, [token.id for token in tokens], errors), [token.logprob for token in tokens]


def mixed(minutes: float, most: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    chance, folder = Random(0), Path(tempfile.mkdtemp())
    requests = pool(folder)
    alone: list[tuple[Any, ...]] = []
    single = worker()
    for request in requests:
        single.do(Command(do="ask", id=request.id, request=request))
        events: list[Event] = []
        while not single.is_idle:
            single.step()
            events += single.report().events
        alone.append(said(events))
    many, number, running, counts = worker(), 0, dict[str, tuple[int, list[Event]]](), Counter[str]()
    largest, together = 0.0, 0
    for _ in in_time(iter(int, 1), minutes):
        for _ in range(chance.randint(0, 12) if number < most else 0):
            index = chance.randrange(len(requests))
            number += 1
            request = requests[index].model_copy(update={"id": f"m{number}", "tenant": f"t{chance.randrange(3)}"})
            running[request.id] = index, []
            many.do(Command(do="ask", id=request.id, request=request))
        many.step()
        together = max(together, len(running))
        for event in many.report().events:
            running[event.id][1].append(event)
            if event.kind in ("done", "error"):
                index, events = running.pop(event.id)
                (shown, logprobs), (wanted, wanted_logprobs) = said(events), alone[index]
                counts["requests"] += 1
                try:
                    assert_alike(shown, wanted)
                    pairs = zip(logprobs, wanted_logprobs, strict=True)
                    largest = max([largest, *(abs(a - b) for a, b in pairs if a is not None and b is not None)])
                except (AssertionError, ValueError) as error:
                    counts["unlike"] += 1
                    print(requests[index].model_dump_json(), str(error)[:300], flush=True)
        if number >= most and not running:
            break
    return {
        "requests": counts["requests"],
        "unlike": counts["unlike"],
        "largest_logprob_difference": largest,
        "in_pool": len(requests),
        "most_at_once": together,
    }


def timing(num: int) -> dict[str, Any]:
    """Whether kept texts of one tenant show in another's times."""
    from worker import _LABELS, Bench, Config

    bench, chance = Bench(Config(1, 1)), Random(0)
    (prompt,) = bench.prompts(1, "after", _LABELS)

    def seconds(text: str, tenant: str) -> float:
        number = f"t{next(bench.numbers)}"
        request = Request(id=number, prompts=(prompt,), row={"text": text}, tenant=tenant)
        started = time.process_time()
        bench.worker.do(Command(do="ask", id=number, request=request))
        while not bench.worker.is_idle:
            bench.worker.step()
        bench.worker.report()
        return time.process_time() - started

    times: dict[str, dict[bool, list[float]]] = {who: {True: [], False: []} for who in ("other", "own")}
    for number in range(num + 5):
        who, is_known = chance.choice(("other", "own")), chance.random() < 0.5
        text, unasked = bench.texts(2, 24)
        seconds(text if is_known else unasked, "a" if who == "other" else "b")
        took = seconds(text, "b")
        if number >= 5:
            times[who][is_known].append(took)
    aucs = {}
    for who, by in times.items():
        values = [value for took in by.values() for value in took]
        aucs[who] = round(float(roc_auc_score([0] * len(by[True]) + [1] * len(by[False]), values)), 3)
    return {"probes": num, "auc_of_other": aucs["other"], "auc_of_own": aucs["own"]}


def main() -> None:
    parser = script_parser(__doc__, "serve", threads=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--probes", type=int, default=1000)
    options = parser.parse_args()
    started = start_facts()
    result = {"mixed": in_own_process(mixed, options.minutes, options.most)}
    print(json.dumps(result), flush=True)
    if options.probes:
        result["timing"] = in_own_process(timing, options.probes)
        print(json.dumps(result["timing"]), flush=True)
    command = (
        f"python bench/serve/equal.py --minutes {options.minutes:g} --most {options.most} --probes {options.probes}"
    )
    write_json(options.out / "equal.json", {"command": command, **started, **result, **machine_facts()})


if __name__ == "__main__":
    main()
