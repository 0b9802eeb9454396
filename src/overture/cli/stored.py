"""Opens the store, the manifest and the task that commands on a stored prompt need."""

from pathlib import Path
from typing import NamedTuple

from overture.core.config import validated
from overture.data.task import Task
from overture.store.artifact import read_manifest
from overture.store.manifest import Manifest
from overture.store.store import Store


class Stored(NamedTuple):
    """A stored prompt that is not opened yet.

    Args:
        folder: of the prompt.
        manifest: describes it.
        task: of the prompt.
    """

    folder: Path
    manifest: Manifest
    task: Task


def stored(store: Store, ref: str) -> Stored:
    """A prompt of a store, by its name or its folder.

    Raises:
        StoreError: there is no such prompt.
        ArtifactError: it is damaged.
        ConfigError: its task is of another version.
    """
    folder = store.get(ref)
    manifest = read_manifest(folder)
    return Stored(folder, manifest, validated(Task, manifest.task, str(folder / "prompt.json")))
