"""The request that made a stored prompt, once more, from its manifest and from where its rows are."""

from pathlib import Path

from overture.core.config import validated
from overture.core.errors import ConfigError
from overture.data.task import Task
from overture.evaluate.facts import adapter_of, config_of
from overture.jobs.run.request import TuneConfig, tune_config
from overture.store.manifest import Manifest
from overture.store.runs import REQUEST, run_of
from overture.store.store import Store
from overture.train.options import TrainConfig

_ELSEWHERE = ("name", "backbone", "data")


def task_with_data_of(manifest: Manifest, path: Path) -> Task:
    """A prompt's own task on the rows of a task file; a manifest does not say where rows are.

    Raises:
        ConfigError: the file cannot be read, or describes another task.
    """
    return _task_again(manifest, tune_config(path).task, path)


def _task_again(manifest: Manifest, other: Task, path: Path) -> Task:
    task = _task_of(manifest, other)
    expected, actual = task.dump(), other.dump()
    unequal = [key for key in expected if key not in _ELSEWHERE and expected[key] != actual[key]]
    if unequal:
        raise ConfigError(
            "the task file describes another task than the prompt's",
            where=str(path),
            got=f"another {', '.join(unequal)}",
            wanted=f"the task of {manifest.name}; only its data may differ",
        )
    return task


def _task_of(manifest: Manifest, other: Task) -> Task:
    """The prompt's task on the rows of another; a search may have worded it as its file does not."""
    return validated(Task, {**manifest.task, "data": other.dump()["data"]}, f"{manifest.name}: prompt.json")


def request_again(manifest: Manifest, store: Store, path: Path | None) -> TuneConfig:
    """The request that made a prompt: its task, prompt, training and seed.

    Args:
        manifest: the prompt's.
        store: where its run is.
        path: a task file that says where the rows are; the run says it when None.

    Raises:
        StoreError: the run is not in this store, and no task file was given.
        ConfigError: the prompt was not tuned here, or the file describes another task.
    """
    if adapter_of(manifest):
        raise ConfigError(
            "this prompt was trained together with an adapter, and cannot be made again without it",
            where=manifest.name,
            fix="tune a prompt without --adapter",
        )
    train, seed = manifest.options.train, manifest.lineage.seed
    if train is None or seed is None:
        raise ConfigError(
            "how this prompt was trained is not known",
            where=manifest.name,
            got=f"made by {', '.join(manifest.lineage.dump()) or 'hand'}",
            wanted="a prompt of `overture tune`",
        )
    if path is None:
        run = run_of(store, manifest, "name the task file after the prompt")
        # A search's request is a tune's with the section `search` besides.
        values = {key: value for key, value in run.request().config.items() if key not in ("search", "hard")}
        request = validated(TuneConfig, values, str(run.folder / REQUEST))
        task = _task_of(manifest, request.task)
    else:
        request = tune_config(path)
        task = _task_again(manifest, request.task, path)
    changes = {
        "task": task.model_copy(update={"backbone": manifest.backbone.id}),
        "prompt": config_of(manifest),
        "train": validated(TrainConfig, train, f"{manifest.name}: prompt.json"),
        "seed": seed,
        "seeds": 1,
        "revision": manifest.backbone.revision,
    }
    return request.model_copy(update=changes)
