"""Overture from Python: tune a task file, load a stored prompt.

Example:
    >>> import overture  # doctest: +SKIP
    >>> result = overture.tune("task.yaml", seeds=3)  # doctest: +SKIP
    >>> prompt = overture.load(result["prompt"])  # doctest: +SKIP
    >>> prompt.predict(["A film that stays with you."])  # doctest: +SKIP
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from overture.core.config import overridden, read_yaml
from overture.core.files import store_dir
from overture.core.records.events import Listener, ignore
from overture.data.task import with_paths_from
from overture.evaluate.tuned import TunedPrompt
from overture.jobs.run.request import TuneConfig, tune_config
from overture.jobs.tune.tune import tune as tune_in_store
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.store.store import Store

SHORT = {"adapter": "adapter.kind", "method": "prompt.method", "place": "prompt.place", "length": "prompt.length"}
"""Settings that have a shorter name."""

_SECTIONS = ("prompt", "train", "data")


def tune(
    path: str | Path,
    *,
    store: str | Path | None = None,
    listener: Listener = ignore,
    **settings: Any,
) -> dict[str, Any]:
    """Tune a prompt for a task file, measure it, keep it.

    Args:
        path: the task file.
        store: where prompts and runs are kept; ``OVERTURE_HOME`` or ``.overture`` when None.
        listener: told of every event.
        settings: what wins over the file: ``seeds=3``, ``method="vectors"``, ``train={"epochs": 2}``.

    Returns:
        The result as ``overture tune --json`` prints it.

    Raises:
        UserError: task, data, model or settings are wrong.
        Diverged: no seed gave a finite prompt.
        DiskFull: the run can be resumed when there is room.
    """
    return tune_in_store(request(Path(path), settings), _store(store), listener)


def load(ref: str | Path, *, store: str | Path | None = None, allow_drift: bool = False) -> TunedPrompt:
    """A stored prompt on its model, ready to answer.

    Args:
        ref: ``name`` for the latest version, ``name@2``, or a prompt's folder.
        store: where prompts are kept; ``OVERTURE_HOME`` or ``.overture`` when None.
        allow_drift: accept another tokenizer, chat template or revision around the same weights.

    Raises:
        StoreError: no such prompt.
        ArtifactError: it is damaged, or made for another model.
        BackboneError: its model cannot be loaded.
    """
    return TunedPrompt(_store(store).get(ref), allow_drift=allow_drift)


def request(path: Path, settings: Mapping[str, Any], assignments: Sequence[str] = ()) -> TuneConfig:
    """A run's request from a task file, named settings and ``key=value`` assignments; later ones win.

    A method that cannot enter at the default place gets its own first place, unless a place was asked for.

    Raises:
        ConfigError: every mistake, with the nearest known key.
    """
    named = [f"{SHORT.get(key, key)}={json.dumps(value)}" for key, value in _flat(settings) if value is not None]
    given = [*named, *map(_from_here, assignments)]
    return tune_config(path, [*_fitting_place(path, given), *given])


def _store(root: str | Path | None) -> Store:
    return Store(Path(root) if root else store_dir())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and (prefix or key in _SECTIONS):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value) if isinstance(value, Path) else value


def _from_here(assignment: str) -> str:
    """An assignment with a data path made absolute, so that a run resumed elsewhere finds it."""
    key, equals, text = assignment.partition("=")
    if key not in ("data.train", "data.validation", "data.test", "data.path") or text.strip() in ("", "null", "~"):
        return assignment
    return f"{key}{equals}{json.dumps(str(Path(text).expanduser().resolve()))}"


def _fitting_place(path: Path, assignments: Sequence[str]) -> list[str]:
    prompt = overridden(with_paths_from(path.parent, read_yaml(path)), list(assignments)).get("prompt")
    if not isinstance(prompt, dict) or prompt.get("place") is not None:
        return []
    method = METHODS.get(str(prompt.get("method")))
    if method is None or PromptConfig().place in method.places:
        return []
    return [f"prompt.place={method.places[0]}"]
