"""Imports transformers without the parts that no command runs, which take more than half of the import's time.

transformers works without its optional packages, so its checks for them are replaced by ones that return False. Its
decorators for compiled models become identities during the import: Overture compiles layers, which have none. Only
Overture's own processes may do so, since the left out parts are missing in the whole process.
"""

import gc
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from overture.core.errors import DiskFull, StoreReadOnly
from overture.core.files import cache_dir, write_json

_ABSENT = (
    "is_torch_distributed_available",
    "is_torch_flex_attn_available",
    "is_accelerate_available",
    "is_scipy_available",
)
_NEEDED = ("transformers.modeling_utils", "transformers.masking_utils", "transformers.generation.utils")
"""Modules that every model's module imports."""

_DYNAMO = ("torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op")


def import_transformers() -> None:
    """Import transformers without its optional parts; does nothing if it is imported or a version refuses."""
    if "transformers" in sys.modules or "torch._dynamo" in sys.modules:
        return
    # An import makes no garbage, but the collector would take a fifth of the time.
    gc.disable()
    torch = import_module("torch")
    usual = {name: getattr(torch.compiler, name) for name in ("disable", "allow_in_graph")}
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    sys.modules.update({name: _StandIn(name) for name in _DYNAMO})
    torch._dynamo = sys.modules[_DYNAMO[0]]  # type: ignore[attr-defined]
    for name in usual:
        setattr(torch.compiler, name, _undecorated)
    try:
        for name in _NEEDED:
            import_module(name)
    except Exception:
        # Another version of the library: drop its half imported modules, so that a later import is a plain one.
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
            del sys.modules[name]
    finally:
        sys.meta_path.remove(finder)
        for name in _DYNAMO:
            del sys.modules[name]
        del torch._dynamo
        for name, decorator in usual.items():
            setattr(torch.compiler, name, decorator)
        gc.freeze()
        gc.enable()


class _Finder(PathFinder):
    """Replaces functions of transformers' module of package checks right after it has run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # type: ignore[override]
        spec = PathFinder.find_spec(name, path) if name == "transformers.utils.import_utils" else None
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def changed(module: ModuleType) -> None:
                execute(module)
                for function in _ABSENT:
                    setattr(module, function, lambda *version: False)
                scan = "create_import_structure_from_path"
                setattr(module, scan, _cached_scan(getattr(module, scan)))

            spec.loader.exec_module = changed  # type: ignore[method-assign]
        return spec


def _cached_scan(scan: Callable[[str | Path], Any]) -> Callable[[str | Path], Any]:
    """The names in transformers' folder of models, from a file; finding them reads its three thousand modules."""

    def structure(place: str | Path) -> Any:
        folder = Path(place).parent if Path(place).suffix else Path(place)
        if folder.name != "models":
            return scan(place)
        state = [version("transformers"), str(folder), folder.stat().st_mtime_ns]
        with suppress(OSError, ValueError, LookupError, TypeError):
            cached = json.loads((cache_dir() / "transformers.json").read_bytes())
            if cached["state"] == state:
                return _decoded(cached["names"])
        names = scan(place)
        # Where they cannot be cached they are scanned again next time.
        with suppress(OSError, DiskFull, StoreReadOnly):
            write_json(cache_dir() / "transformers.json", {"state": state, "names": _encoded(names)})
        return names

    return structure


def _encoded(names: Any) -> Any:
    """Mappings whose keys are words or sets of words, as JSON holds them."""
    if not isinstance(names, dict):
        return sorted(names)
    return {"": [[sorted(k) if isinstance(k, frozenset) else k, _encoded(value)] for k, value in names.items()]}


def _decoded(names: Any) -> Any:
    if isinstance(names, list):
        return set(names)
    return {frozenset(key) if isinstance(key, list) else key: _decoded(value) for key, value in names[""]}


class _StandIn(ModuleType):
    """Stands for torch's compiler, from which transformers imports decorators and a class for `isinstance`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {}) if name[0].isupper() else _undecorated


def _undecorated(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    return _undecorated if function is None else function
