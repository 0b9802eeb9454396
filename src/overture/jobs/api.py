"""Overture from Python: tune a task file, load a stored prompt.

Example:
    >>> import overture  # doctest: +SKIP
    >>> result = overture.tune("task.yaml", seeds=3)  # doctest: +SKIP
    >>> prompt = overture.load(result.prompt)  # doctest: +SKIP
    >>> prompt.predict(["A film that stays with you."])  # doctest: +SKIP
"""

from pathlib import Path
from typing import Any

from overture.core.files import store_dir
from overture.core.records.events import Listener, ignore
from overture.core.records.tune import TuneResult
from overture.evaluate.host import Handle, Host
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.tune.tune import tune as tune_in_store
from overture.store.store import Store


def tune(
    path: str | Path,
    *,
    store: str | Path | None = None,
    listener: Listener = ignore,
    **settings: Any,
) -> TuneResult:
    """Tune a prompt for a task file, measure it, keep it.

    Args:
        path: the task file.
        store: where prompts and runs are kept; ``OVERTURE_HOME`` or ``.overture`` when None.
        listener: called with every event.
        settings: what wins over the file: ``seeds=3``, ``method="vectors"``, ``train={"epochs": 2}``.

    Returns:
        The result as ``overture tune --json`` prints it.

    Raises:
        UserError: task, data, model or settings are wrong.
        Diverged: no seed gave a finite prompt.
        DiskFull: the run can be resumed when there is room.
    """
    result = tune_in_store(resolved(TuneConfig, Path(path), settings), _store(store), listener)
    assert isinstance(result, TuneResult), "nobody asked it to stop"
    return result


def load(ref: str | Path, *, store: str | Path | None = None, allow_drift: bool = False) -> Handle:
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
    return Host(store=_store(store), allow_drift=allow_drift).open(ref)


def _store(root: str | Path | None) -> Store:
    return Store(Path(root) if root else store_dir())
