"""Finds the precision in which this processor multiplies matrices fastest; rates are measured once and cached."""

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

from overture.core.errors import DiskFull, StoreReadOnly
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


def device_of(name: str) -> torch.device:
    """The device of a name; ``auto`` is a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The data type of a name; ``auto`` is float32 on a CPU and bfloat16 on a GPU."""
    dtype: torch.dtype = (
        (torch.float32 if device.type == "cpu" else torch.bfloat16) if name == "auto" else getattr(torch, name)
    )
    return dtype


def fastest_dtype(device: str = "auto") -> Literal["float32", "bfloat16"]:
    """The type behind ``dtype: fastest``: bfloat16 on a GPU, and on a CPU the faster one."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return "bfloat16"
    return matrix_rates().fastest


def matrix_rates() -> Rates:
    """The rates of this processor under this torch, from the user's cache or measured in half a second."""
    key = f"{_processor()}, torch {torch.__version__}"
    rates_of: dict[str, Rates] = {}
    with contextlib.suppress(OSError, ValueError):
        rates_of = _Memo.validate_json((cache_dir() / "rates.json").read_bytes())
    if key not in rates_of:
        rates_of[key] = _rates()
        # Where they cannot be cached they are measured again next time.
        with contextlib.suppress(OSError, DiskFull, StoreReadOnly):
            write_json(cache_dir() / "rates.json", _Memo.dump_python(rates_of, mode="json"))
    return rates_of[key]


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
    """Processor time of a product, which other work on the machine does not lengthen."""
    start = time.process_time()
    product()
    return time.process_time() - start
