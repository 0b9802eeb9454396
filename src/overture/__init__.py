"""Overture: tune the prompt, keep the model.

import overture

result = overture.tune("task.yaml", seeds=3)
prompt = overture.load(result.prompt)
print(prompt.predict("A film that stays with you."))
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overture.core.errors import UserError
    from overture.core.rows import Prediction
    from overture.jobs.api import compare, evaluate, load, search, tune
    from overture.store.store import Store

__version__ = "0.1.0"
__all__ = ["Prediction", "Store", "UserError", "__version__", "compare", "evaluate", "load", "search", "tune"]

# Imported on first use: torch and transformers take seconds.
_HOMES = {
    "Prediction": "overture.core.rows",
    "Store": "overture.store.store",
    "UserError": "overture.core.errors",
    **dict.fromkeys(("compare", "load", "search", "tune"), "overture.jobs.api"),
}


class _EvaluatePackage(ModuleType):
    """The package `overture.evaluate`; it is called as the function of the same name."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return import_module("overture.jobs.api").evaluate(*args, **keywords)


# Importing a package sets an attribute of its parent, which would hide the function.
import_module("overture.evaluate")
sys.modules["overture.evaluate"].__class__ = _EvaluatePackage


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
