"""Processes that train one prompt together: their arrangement, their sums, and the values on which they agree.

Processes stand in a grid of `data` groups times `heads` members. Members of one group hold parts of one model, run the
same rows and get the same gradients (tensor parallelism); groups train on different rows, and their gradients are
summed. Everything that decides the course of a training (scores, stops, limits) is the same in all processes.

Nothing is pickled: processes exchange numbers, or bytes that the receiver checks as it checks files.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from overture.core.errors import ConfigError, LostProcess, OvertureError
from overture.core.launch import Launch, launched

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore
    from torch.distributed.device_mesh import DeviceMesh

_TIMEOUT_S = 1800.0
"""How long a process waits for the others: as long as one may need to read a large model."""
_REASON = "overture/reason"
_REASON_S = 5.0


class Ranks:
    """Several processes that train together; meets `core.contracts.Reducer`.

    Args:
        launch: which of them this is.
        tensor_parallel: how many hold one model between them.
        is_sharded: the layers' weights are spread over all processes, which run each layer at the same time.
        device: where sums are made: ``cpu`` or ``cuda``.

    Attributes:
        rank: number of this process's data group; those of one group train on the same rows.
        size: how many data groups there are.
        summed_bytes: bytes of the values that this process has handed to `sum`.
        gathered_bytes: bytes of its own heads that it has handed to the others of its group.

    Raises:
        ConfigError: so many processes cannot be arranged like this.
    """

    def __init__(self, launch: Launch, tensor_parallel: int, is_sharded: bool, device: str) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        check_grid(launch, tensor_parallel, is_sharded)
        self.launch, self.tensor_parallel, self.is_lockstep = launch, tensor_parallel, is_sharded
        self.is_first = launch.is_first
        self.rank, self.head_rank = divmod(launch.rank, tensor_parallel)
        self.size = launch.size // tensor_parallel
        self.device = torch.device(device)
        shape = (self.size, tensor_parallel)
        self.mesh: DeviceMesh = init_device_mesh(device, shape, mesh_dim_names=("data", "heads"))
        self._data = self.mesh["data"].get_group()
        self._heads = self.mesh["heads"].get_group()
        self.summed_bytes = self.gathered_bytes = 0

    @property
    def is_shared(self) -> bool:
        """Whether a model is spread over several processes, instead of one in each."""
        return self.tensor_parallel > 1 or self.is_lockstep

    # -- the reducer

    def sum(self, values: Sequence[Tensor]) -> None:
        """Replace each value by its sum over the data groups, in place; values of one type travel together."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(value.dtype for value in values):
            alike = [value for value in values if value.dtype == dtype]
            flat = torch.cat([value.reshape(-1) for value in alike])
            self.summed_bytes += flat.numel() * flat.element_size()
            dist.all_reduce(flat, group=self._data)
            for value, part in zip(alike, torch.split(flat, [value.numel() for value in alike]), strict=True):
                value.copy_(part.view_as(value))

    def most(self, value: float) -> float:
        """The largest of all processes' values."""
        number = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return float(number)

    def from_first(self, values: Sequence[float]) -> list[float]:
        """The first process's values; all have as many."""
        if not values:
            return []
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(numbers, src=0)
        numbers_of_first: list[float] = numbers.tolist()
        return numbers_of_first

    def bytes_from_first(self, make: Callable[[], bytes]) -> bytes:
        """Bytes that the first process makes, sent to all processes."""
        own_payload = make() if self.is_first else b""
        size = int(self.from_first([len(own_payload)])[0])
        if not size:
            return b""
        payload = torch.frombuffer(bytearray(own_payload or bytes(size)), dtype=torch.uint8)
        dist.broadcast(payload, src=0)
        return bytes(payload.numpy().tobytes())

    # -- heads of one layer

    def own_heads(self, values: Tensor) -> Tensor:
        """This process's share of values of all heads, [..., H, M, K]; the gradient comes back whole."""
        heads: Tensor = _CutHeads.apply(values, self)  # type: ignore[no-untyped-call]
        return heads

    def all_heads(self, values: Tensor) -> Tensor:
        """The inverse: values of all heads from those that each process has, [..., H / heads, M, K]."""
        all_values: Tensor = _GatherHeads.apply(values, self)  # type: ignore[no-untyped-call]
        return all_values

    def cut_heads(self, values: Tensor) -> Tensor:
        """This process's share of values of all heads, [..., H, M, K]; without a gradient of its own."""
        return values.chunk(self.tensor_parallel, dim=-3)[self.head_rank]

    def gather_heads(self, values: Tensor) -> Tensor:
        """Values of all heads from each process's share; without a gradient of its own."""
        self.gathered_bytes += values.numel() * values.element_size()
        parts = [torch.empty_like(values) for _ in range(self.tensor_parallel)]
        dist.all_gather(parts, values.contiguous(), group=self._heads)
        return torch.cat(parts, dim=-3)


class _CutHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.cut_heads(values).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.gather_heads(gradients[0]), None


class _GatherHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.gather_heads(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.cut_heads(gradients[0]).contiguous(), None


def check_grid(launch: Launch, tensor_parallel: int, is_sharded: bool) -> None:
    """Check that the number of processes fits a request.

    Raises:
        ConfigError: they cannot.
    """
    if launch.size % tensor_parallel:
        raise ConfigError(
            "this many processes do not share one model",
            where="tensor_parallel",
            got=f"{tensor_parallel} of {launch.size} processes",
            wanted="a number that divides that of the processes",
            fix=f"torchrun --nproc-per-node {tensor_parallel} -m overture ..., or --tensor-parallel {launch.size}",
        )
    if is_sharded and (tensor_parallel > 1 or launch.size == 1):
        raise ConfigError(
            "weights are spread over several processes that share nothing else",
            where="shard",
            got=f"{launch.size} processes, tensor_parallel {tensor_parallel}",
            fix="torchrun --nproc-per-node N -m overture ... --shard, without --tensor-parallel",
        )


@contextmanager
def joined(tensor_parallel: int, is_sharded: bool, device: str) -> Iterator[Ranks | None]:
    """Join the processes that were started with this one; None where it is the only one.

    Args:
        tensor_parallel: how many hold one model between them.
        is_sharded: weights are spread over all.
        device: as a request names it: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: so many processes cannot be arranged like this.
        LostProcess: another process ended; why, where it could say so.
    """
    launch = launched()
    check_grid(launch, tensor_parallel, is_sharded)
    if launch.size == 1:
        yield None
        return
    kind = "cuda" if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()) else "cpu"
    if kind == "cuda":
        torch.cuda.set_device(launch.local_rank)
    backend = "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl"
    try:
        with lost_process_named(launch):
            dist.init_process_group(backend, timeout=timedelta(seconds=_TIMEOUT_S))
            yield Ranks(launch, tensor_parallel, is_sharded, kind)
    except OvertureError as error:
        if not launch.is_first and not isinstance(error, LostProcess):
            # The first process reads the reason, see `lost_process_named`.
            with contextlib.suppress(Exception):
                _messages().set(_REASON, f"process {launch.rank}: {error.what} {error.got}".strip())
        raise
    finally:
        with contextlib.suppress(Exception):
            dist.destroy_process_group()


@contextmanager
def lost_process_named(launch: Launch) -> Iterator[None]:
    """Turn an error of the network into one that says which process is lost, and why if it could report it.

    Args:
        launch: this process.

    Raises:
        LostProcess: another process ended.
    """
    try:
        yield
    except RuntimeError as error:
        # Errors of a collective whose other side is gone; their class differs between backends.
        words = ("Connection closed by peer", "Connection reset by peer", "gloo", "Broken pipe", "NCCL", "Timed out")
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in words):
            raise
        raise LostProcess(
            "another process of this training ended, so this one ends too",
            where=f"process {launch.rank} of {launch.size}",
            got=_reason() or "nothing was heard from it: it was killed, or its machine is gone",
            fix="mend that and go on: torchrun ... -m overture resume RUN; any number of processes will do",
        ) from None


def _messages() -> "TCPStore":
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    from torch._C._distributed_c10d import TCPStore

    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=_REASON_S))


def _reason() -> str:
    with contextlib.suppress(Exception):
        messages = _messages()
        if messages.check([_REASON]):
            return messages.get(_REASON).decode()
    return ""
