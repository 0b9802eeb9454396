"""Several tasks in one run: one model, one kind of prompt, one way of training."""

from collections.abc import Callable, Sequence
from typing import Any

from overture.core.errors import ConfigError
from overture.engine.backbone import Backbone
from overture.engine.cache import default_budget_bytes
from overture.jobs.run.request import TuneConfig, check_no_adapter
from overture.jobs.run.work import Work, prepared
from overture.store.runs import Run
from overture.store.store import Store

_SHARED = ("prompt", "revision", "device", "dtype", "compile_layers", "seed")
_SHARED_IN_TRAINING = ("batch_size", "lr", "optimiser", "weight_decay", "clip", "max_tokens", "gradient_checkpointing")


def alike(requests: Sequence[TuneConfig]) -> list[TuneConfig]:
    """Check that the requests agree; gives them with the memory for kept inputs shared among them.

    Raises:
        ConfigError: they differ in model, prompt or training.
    """
    for request in requests:
        check_no_adapter(request, "a run of several tasks")
    first = _common_settings(requests[0])
    for request in requests[1:]:
        settings = _common_settings(request)
        if different := [key for key in first if settings[key] != first[key]]:
            raise ConfigError(
                "the tasks must agree on model, prompt and training",
                where=f"{requests[0].task.name} and {request.task.name}",
                got=", ".join(f"{key}: {first[key]} and {settings[key]}" for key in different),
                fix="set it for all: --backbone, --method, --place, --length or --set KEY=VALUE",
            )
    room_gb = requests[0].cache_gb
    share = (default_budget_bytes() / 1e9 if room_gb is None else room_gb) / len(requests)
    return [request.model_copy(update={"cache_gb": share}) for request in requests]


def _common_settings(request: TuneConfig) -> dict[str, Any]:
    """The settings that all tasks must share."""
    values = request.model_dump(mode="json")
    training = {f"train.{key}": values["train"][key] for key in _SHARED_IN_TRAINING}
    return {"backbone": request.task.backbone, **{key: values[key] for key in _SHARED}, **training}


def all_prepared(
    run: Run,
    requests: Sequence[TuneConfig],
    store: Store,
    is_stop_asked: Callable[[], bool],
    backbone: Backbone | None,
) -> list[Work]:
    """Read and encode every task's rows; the model is loaded once.

    Raises:
        DataError: rows are wrong, or none are there to choose by.
        BackboneError: the model cannot be loaded.
    """
    works: list[Work] = []
    for request in requests:
        works.append(prepared(run, request, store, is_stop_asked, backbone))
        backbone = works[0].backbone
    return works
