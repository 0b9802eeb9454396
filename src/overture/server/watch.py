"""Monitoring of a running server: an audit log without texts, and Prometheus metrics."""

import json
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from overture.server.engine import Engine
from overture.server.security import Visit

_MAX_PROMPTS = 100
"""Prompts with metrics of their own; the later ones are counted together."""
_RECENT = 500
_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(slots=True)
class Calls:
    """Requests of one prompt since the server's start.

    Args:
        num: how many.
        num_refused: of these, refused or failed.
        recent_s: seconds of the last ones that were answered.
    """

    num: int = 0
    num_refused: int = 0
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @property
    def median_s(self) -> float | None:
        """Half of the last answers took at most so long; None where there is none."""
        return statistics.median(tuple(self.recent_s)) if self.recent_s else None


class Watch:
    """Counts requests and writes the audit log.

    Args:
        engine: its numbers are read when metrics are asked for.
        audit: a file that grows by a JSON line for each request; None for none.
    """

    def __init__(self, engine: Engine, audit: Path | None = None) -> None:
        self.engine, self._calls = engine, dict[str, Calls]()
        # Line-buffered: a killed server loses no whole line.
        self._audit = open(audit, "a", buffering=1, encoding="utf-8") if audit else None  # noqa: SIM115
        self.metrics = CollectorRegistry()
        labels = ["prompt", "status"]
        self._requests = Counter("overture_requests", "requests answered", labels, registry=self.metrics)
        self._seconds = Histogram("overture_request_seconds", "time", registry=self.metrics, buckets=_BOUNDS_S)
        self._tokens = Counter("overture_tokens", "tokens", ["kind"], registry=self.metrics)
        for name in ("queued", "running", "wait_s", "slots", "slot_bytes", "text_bytes", "prompts", "restarts"):
            gauge = Gauge(f"overture_engine_{name}", f"{name} of the engine", registry=self.metrics)
            gauge.set_function(lambda name=name: float(getattr(engine.stats(), name)))  # type: ignore[misc]

    def finished(self, visit: Visit) -> None:
        """Count a request, and write its line: who, what, how long; no text and no key."""
        seconds = time.monotonic() - visit.started
        for prompt in visit.prompts or ("",):
            label = prompt if prompt in self._calls or len(self._calls) < _MAX_PROMPTS else "other"
            self._requests.labels(label, str(visit.status)).inc()
            calls = self._calls.setdefault(label, Calls())
            calls.num += 1
            if visit.status < 400:
                calls.recent_s.append(seconds)
            else:
                calls.num_refused += 1
        self._seconds.observe(seconds)
        self._tokens.labels("input").inc(visit.input_tokens)
        self._tokens.labels("output").inc(visit.output_tokens)
        if self._audit:
            line = {
                "time": round(time.time(), 3),
                "id": visit.id,
                "key": visit.key.name,
                "path": visit.path[:200],
                "prompts": visit.prompts,
                "status": visit.status,
                "ms": round(1000 * seconds, 1),
                "input_tokens": visit.input_tokens,
                "output_tokens": visit.output_tokens,
            }
            self._audit.write(json.dumps(line) + "\n")

    def text(self) -> bytes:
        """All metrics, as Prometheus reads them."""
        return generate_latest(self.metrics)

    def close(self) -> None:
        """Close the audit log."""
        if self._audit:
            self._audit.close()

    def calls(self, prompt: str) -> Calls | None:
        """Requests of a pinned prompt; None where there was none, or too many others were asked before it."""
        return self._calls.get(prompt)
