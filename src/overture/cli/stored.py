"""Opens the store, the manifest and the task that commands on a stored prompt need."""

from pathlib import Path
from typing import NamedTuple

from overture.cli.out import say
from overture.core.config import validated
from overture.core.files import check_writable
from overture.data.task import Task
from overture.jobs.run.request import tune_config
from overture.store.artifact import read_manifest
from overture.store.manifest import Manifest, check_answers
from overture.store.names import checked_name
from overture.store.store import Store


class StoredPrompt(NamedTuple):
    """A stored prompt that is not opened yet.

    Args:
        folder: of the prompt.
        manifest: describes it.
        task: of the prompt.
    """

    folder: Path
    manifest: Manifest
    task: Task


def stored_prompt(store: Store, ref: str) -> StoredPrompt:
    """A prompt of a store, by its name or its folder.

    Raises:
        StoreError: there is no such prompt.
        ArtifactError: it is damaged, or answers no rows.
        ConfigError: its task is of another version.
    """
    folder = store.get(ref)
    manifest = read_manifest(folder)
    check_answers(manifest)
    return StoredPrompt(folder, manifest, validated(Task, manifest.task, str(folder / "prompt.json")))


def checked_store(root: Path, prompt: str, name: str | None, task: Path | None) -> Store:
    """A store, after the checks of a command that makes a prompt of another; they load no model.

    Args:
        root: of the store.
        prompt: the stored prompt that the new one is made of.
        name: of the new prompt, if given.
        task: a task file that says where rows are, if given.

    Raises:
        UserError: there is no such prompt, a name or the task file is wrong, or the store cannot be written.
    """
    store = Store(root, say)
    store.get(prompt)
    check_writable(root)
    if name:
        checked_name(name)
    if task:
        tune_config(task)
    return store
