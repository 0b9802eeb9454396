"""Requests by schemathesis against a gateway on a fake engine: no 5xx, no hang, replies that fit their schema.

python bench/serve/fuzz.py [--examples N] [--rounds N] [--out FILE]

It keeps all requests of a round in memory, so rounds of 100 examples are better than one of 1,000.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
NAMES = ("movie", "movie@1", "tiny:spam", "topics", "names", "stars", "pair", "summary", "talk", "tiny", "none")
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"


def known_names(value: Any) -> Any:
    """Most of the generated names become those of stored prompts, so that requests reach the engine."""
    for field in ("prompt", "model") if isinstance(value, dict) else ():
        if field in value and random.random() < 0.9 and not (field == "prompt" and "model" in value):
            value[field] = random.choice(NAMES)
    return value


def run(num_examples: int, num_rounds: int) -> dict[str, Any]:
    from gateway import Gateway  # type: ignore[import-not-found]
    from overture.server.listen import bound_socket, uvicorn_server
    from overture.server.security import Access

    bound = bound_socket("127.0.0.1", 0)
    port = bound.getsockname()[1]
    gateway = Gateway(tempfile.mkdtemp(), access=Access(port=port), serves_base=True)
    gateway.add("movie", "spam", "topics", "names", "stars", "pair", "summary", "talk")
    server = uvicorn_server(gateway.app)
    threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True).start()
    before, started = psutil.Process().memory_info().rss, time.monotonic()
    command = ["schemathesis", "run", f"http://127.0.0.1:{port}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", str(num_examples), "--request-timeout", "20", "--exclude-method", "DELETE"]
    hooks = {"SCHEMATHESIS_HOOKS": "fuzz", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    num_requests, num_failed = 0, 0
    for seed in range(num_rounds):
        done = subprocess.run(
            [*command, "--seed", str(seed)], check=False, capture_output=True, text=True, env={**os.environ, **hooks}
        )
        counts = re.search(r"(\d+) generated", done.stdout)
        num_requests += int(counts[1]) if counts else 0
        num_failed += done.returncode != 0
        if done.returncode:
            print("\n".join(line[:300] for line in done.stdout.splitlines()), file=sys.stderr)
        print(f"round {seed}: {num_requests} requests", file=sys.stderr, flush=True)
    statuses: dict[str, int] = {}
    for line in gateway.watch.text().decode().splitlines():
        if match := re.match(r'overture_requests_total\{.*status="(\d+)"\} (\S+)', line):
            statuses[match[1]] = statuses.get(match[1], 0) + int(float(match[2]))
    server.should_exit = True
    return {
        "command": f"python bench/serve/fuzz.py --examples {num_examples} --rounds {num_rounds}",
        "requests": num_requests,
        "failed_rounds": num_failed,
        "by_status": dict(sorted(statuses.items())),
        "server_errors": sum(count for status, count in statuses.items() if status.startswith("5")),
        "seconds": round(time.monotonic() - started, 1),
        "rss_before_mb": round(before / 1e6, 1),
        "rss_after_mb": round(psutil.Process().memory_info().rss / 1e6, 1),
        "leaked_requests": len(gateway.engine.running),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = run(arguments.examples, arguments.rounds)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
elif "schemathesis" in sys.modules:
    import schemathesis

    @schemathesis.hook
    def map_body(context: Any, body: Any) -> Any:
        return known_names(body)
