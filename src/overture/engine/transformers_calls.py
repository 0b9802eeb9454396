"""Guards around calls of transformers: a lock, silence, errors that say what to do, and faster construction."""

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from overture.core.errors import BackboneError, OvertureError
from overture.engine.options import EMBEDDED

LOADING = threading.Lock()
"""Held while transformers makes a model: it changes its own classes meanwhile, for all threads."""


class Unfilled(TorchFunctionMode):
    """Skips work on tensors of the meta device, which torch does in Python after importing its compiler.

    Random values of weights that will come from the file are not drawn; tables of positions get real numbers.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        if func is torch.arange and kwargs.get("device") == torch.device("meta"):
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextmanager
def readable_errors(name: str) -> Iterator[None]:
    """Turn errors of transformers into a `BackboneError` that says what to do.

    Args:
        name: the model as the user named it.

    Raises:
        BackboneError: transformers raised an error.
    """
    try:
        yield
    except OvertureError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if "ignore_mismatched_sizes" in str(error):
            raise BackboneError(
                "the shapes of the model's weights are not those of its config.json",
                where=name,
                fix="put back the config.json that belongs to the weights",
            ) from error
        raise BackboneError(
            "the model cannot be loaded",
            where=name,
            got=str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__,
            wanted="an alias (" + ", ".join(EMBEDDED) + "), a Hub id, a folder with safetensors, or a .gguf file",
            fix="check the name; for a Hub id also the connection",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's progress bars and advice off the user's screen."""
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        # No setting turns the bars off, so standard error is redirected.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
