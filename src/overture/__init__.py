"""Overture: tune the prompt, keep the model.

import overture

result = overture.tune("task.yaml", seeds=3)
prompt = overture.load(result.prompt)
print(prompt.predict(["A film that stays with you."]))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overture.jobs.api import load, tune
    from overture.store.store import Store

__version__ = "0.1.0"
__all__ = ["Store", "__version__", "load", "tune"]

# Imported on first use: torch and transformers take seconds.
_HOMES = {"Store": "overture.store.store", "load": "overture.jobs.api", "tune": "overture.jobs.api"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
