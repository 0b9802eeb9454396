"""A model whose weights are read when something is first computed with them.

Its parameters have a shape, type and device, and no values. The first operation on one of them reads all weights and
puts them in place; a look-up of tokens' vectors reads only their rows of the file.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only


class Unread:
    """The weights of a model, until they are read.

    Args:
        model: transformers' model, whose parameters are replaced.
        device: the device of the weights.
        read: makes the same model with its weights.
        folder: of its safetensors files.
    """

    def __init__(self, model: Any, device: torch.device, read: Callable[[], Any], folder: Path) -> None:
        self._model, self._device, self._read, self._folder = model, device, read, folder
        self._lock = threading.Lock()
        self._values: dict[str, Tensor] | None = None
        parameters = dict(model.named_parameters(remove_duplicate=False))
        # Tied weights stay one tensor.
        tensors = {id(value): UnreadTensor(self, name, value, device) for name, value in reversed(parameters.items())}
        self._set_parameters({name: tensors[id(value)] for name, value in parameters.items()})

    @property
    def is_read(self) -> bool:
        """Whether the weights were read."""
        return self._values is not None

    def value(self, name: str) -> Tensor:
        """A parameter's value; the first call reads all weights."""
        with self._lock:
            if self._values is None:
                full_model = self._read().to(self._device)
                values = dict(full_model.named_parameters(remove_duplicate=False))
                self._set_parameters(values)
                for path, buffer in full_model.named_buffers(remove_duplicate=False):
                    owner, _, name_in_owner = path.rpartition(".")
                    self._model.get_submodule(owner)._buffers[name_in_owner] = buffer
                self._values = {path: value.detach() for path, value in values.items()}
            return self._values[name]

    def rows(self, name: str, ids: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Rows of a table, [..., D], read from its file alone; None where no file has it under this name."""
        if self._values is not None or bool((ids < 0).any()):
            return None
        for path in sorted(self._folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                if name in file.keys():  # noqa: SIM118
                    table = file.get_slice(name)
                    flat = [table[number : number + 1] for number in ids.reshape(-1).tolist()]
                    rows = torch.cat(flat) if flat else torch.empty(0, table.get_shape()[1])
                    return rows.reshape(*ids.shape, -1).to(self._device, dtype)
        return None

    def _set_parameters(self, values: Mapping[str, Any]) -> None:
        for path, value in values.items():
            owner, _, name = path.rpartition(".")
            self._model.get_submodule(owner)._parameters[name] = value


class UnreadTensor(Tensor):
    """A parameter whose value is read when something is computed with it."""

    _unread: Unread
    _name: str

    @staticmethod
    def __new__(cls, unread: Unread, name: str, like: Tensor, device: torch.device) -> "UnreadTensor":
        """As `like` in shape and type, without its memory."""
        tensor: UnreadTensor = torch.Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype, device=device)
        tensor._unread, tensor._name = unread, name
        return tensor

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation on the values, which are read first if need be."""
        if func is torch.ops.aten.detach.default:
            return cls(args[0]._unread, args[0]._name, args[0], args[0].device)
        if (ids := _looked_up_ids(func, args)) is not None:
            table = args[0]
            rows = table._unread.rows(table._name, ids, table.dtype)
            if rows is not None:
                return rows
        args, kwargs = tree_map_only(
            UnreadTensor, lambda tensor: tensor._unread.value(tensor._name), (args, kwargs or {})
        )
        return func(*args, **kwargs)


def _looked_up_ids(func: Any, args: Any) -> Tensor | None:
    """The row numbers of an operation that looks up rows of a table; None for any other operation."""
    if not args or not isinstance(args[0], UnreadTensor) or args[0].dim() != 2:
        return None
    if func is torch.ops.aten.embedding.default:
        return args[1]
    if func is torch.ops.aten.index.Tensor and len(args[1]) == 1 and args[1][0].dtype == torch.long:
        return args[1][0]
    return None


def is_unread(model: Any) -> bool:
    """Whether a model's weights are still to be read."""
    return any(isinstance(value, UnreadTensor) for value in model.parameters())


def without_weights(kind_of_model: Any, config: Any, dtype: torch.dtype) -> Any:
    """A model whose weights are allocated and not written, which on the CPU takes no memory."""
    with _NoRandomValues():
        return kind_of_model.from_config(config, dtype=dtype, trust_remote_code=False)


class _NoRandomValues(TorchFunctionMode):
    """Spares weights that will not be used their random values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_drawing = getattr(func, "__name__", "").endswith(("normal_", "uniform_"))
        if is_drawing and getattr(func, "__module__", "") in ("torch.nn.init", "transformers.initialization"):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
