"""The precision in which this processor multiplies matrices fastest: measured once, then read from the user's cache."""

import contextlib
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, TypeAdapter
from torch.nn.functional import linear

from overture.core.errors import DiskFull
from overture.core.files import cache_dir, write_json
from overture.core.records.base import Record

FASTER = 1.5
"""bfloat16 is chosen from this ratio of the rates on: at 2.0, training takes 0.5 to 0.65 times float32's time."""
_TOKENS, _WIDTH, _INNER = 256, 768, 2048
_ROUNDS = 5


class Rates(Record):
    """Best rates of one thread for a batch's products with a frozen weight, in both directions."""

    float32: float = Field(description="GFLOP/s", gt=0)
    bfloat16: float = Field(description="GFLOP/s", gt=0)

    @property
    def fastest(self) -> Literal["float32", "bfloat16"]:
        """The precision that is clearly faster, or float32."""
        return "bfloat16" if self.bfloat16 >= FASTER * self.float32 else "float32"


_Memo = TypeAdapter(dict[str, Rates])


def fastest_dtype(device: str = "auto") -> Literal["float32", "bfloat16"]:
    """The type behind ``dtype: fastest``: bfloat16 on a GPU, and on a CPU the faster one."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return "bfloat16"
    return matrix_rates().fastest


def matrix_rates() -> Rates:
    """The rates of this processor under this torch; measured in half a second when not known."""
    key = f"{_processor()}, torch {torch.__version__}"
    known: dict[str, Rates] = {}
    with contextlib.suppress(OSError, ValueError):
        known = _Memo.validate_json((cache_dir() / "rates.json").read_bytes())
    if key not in known:
        known[key] = _rates()
        # Without a cache they are measured again next time.
        with contextlib.suppress(OSError, DiskFull):
            write_json(cache_dir() / "rates.json", _Memo.dump_python(known, mode="json"))
    return known[key]


def _processor() -> str:
    """Model and kernels of the processor; names alone are often cut short on virtual machines."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    model = ", ".join(facts.get(name, "") for name in ("model name", "cpu family", "model"))
    kinds = {"bf16", "avx512_bf16", "amx_bf16"} & set(facts.get("flags", facts.get("Features", "")).split())
    return f"{model if facts else platform.processor()}, {os.cpu_count()} processors, {', '.join(sorted(kinds))}"


@torch.no_grad()
def _rates() -> Rates:
    """GFLOP/s of one thread in the slower direction, as the best of some rounds in which the precisions take turns.

    Threads that wait for each other on a busy machine count as work, so there is one.
    """
    products = {dtype: _products(dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds: dict[torch.dtype, list[list[float]]] = {dtype: [] for dtype in products}
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_ROUNDS + 1):
            for dtype, directions in products.items():
                seconds[dtype].append([_seconds(product) for product in directions])
    finally:
        torch.set_num_threads(num_threads)
    # The first round of each prepares its kernels.
    best = {dtype: max(map(min, zip(*rounds[1:], strict=True))) for dtype, rounds in seconds.items()}
    flop = 2 * _TOKENS * _WIDTH * _INNER
    return Rates(**{str(dtype).removeprefix("torch."): 1e-9 * flop / slower for dtype, slower in best.items()})


def _products(dtype: torch.dtype) -> list[Callable[[], torch.Tensor]]:
    """A product with a weight, and that of its gradient."""
    hidden, weight = torch.randn(_TOKENS, _WIDTH).to(dtype), torch.randn(_INNER, _WIDTH).to(dtype)
    return [partial(linear, hidden, weight), partial(torch.mm, linear(hidden, weight), weight)]


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    """Processor seconds: other work on the machine adds none."""
    start = time.process_time()
    product()
    return time.process_time() - start
