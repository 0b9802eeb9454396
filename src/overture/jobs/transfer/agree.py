"""Requests for several tasks in one run must agree; checked without torch, so that mistakes are reported at once."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from overture.core.errors import ConfigError
from overture.jobs.run.request import TuneConfig, check_no_adapter, with_slots
from overture.jobs.run.settled import pinned
from overture.prompt.methods import METHODS
from overture.prompt.registry import method_of
from overture.store.store import Store

_SHARED = ("prompt", "revision", "device", "dtype", "compile_layers", "seed")
_SHARED_IN_TRAINING = ("batch_size", "lr", "optimiser", "weight_decay", "clip", "max_tokens", "gradient_checkpointing")


def agreed(requests: Sequence[TuneConfig], store: Store, name: str, why: str, num_least: int = 2) -> list[TuneConfig]:
    """The requests with what must stay the same settled, where they agree on model, prompt and training.

    Args:
        requests: of the tasks.
        store: has the stored prompts that they name, and keeps the run's.
        name: of the prompt that the run keeps.
        why: the job's reason to have several tasks, for the error where they are too few.
        num_least: how many there must be.

    Raises:
        ConfigError: they are too few, or differ.
        StoreError: a stored prompt is not there, or the name is wrong.
    """
    store.check_can_add(name)
    if len(requests) < num_least:
        raise ConfigError(why, got=str(len(requests)), wanted=f"at least {num_least} task files")
    requests = [pinned(with_slots(request), store) for request in requests]
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
    return requests


def _common_settings(request: TuneConfig) -> dict[str, Any]:
    """The settings that all tasks must share."""
    values = request.model_dump(mode="json")
    training = {f"train.{key}": values["train"][key] for key in _SHARED_IN_TRAINING}
    return {"backbone": request.task.backbone, **{key: values[key] for key in _SHARED}, **training}


def agreed_to_learn(
    tasks: Sequence[TuneConfig], unseen: Sequence[TuneConfig], store: Store, name: str
) -> list[TuneConfig]:
    """Requests of the tasks on which a start is learnt, and of those that it is only measured on.

    Raises:
        As `agreed`.
    """
    return agreed((*tasks, *unseen), store, name, "a start is learned on several tasks", 2 + len(unseen))


def agreed_to_share(tasks: Sequence[TuneConfig], store: Store, name: str, teachers: Sequence[str]) -> list[TuneConfig]:
    """Requests of tasks whose prompts share values.

    Raises:
        ConfigError: two have one name, the teachers are not as many, or the method shares nothing; or as `agreed`.
        StoreError: as `agreed`.
    """
    requests = agreed(tasks, store, name, "values are shared by several tasks")
    names = [request.task.name for request in requests]
    if twice := [task_name for task_name, count in Counter(names).items() if count > 1]:
        raise ConfigError("two tasks have the same name", where="name", got=twice[0], fix="give one file another name")
    for task_name in names:
        store.check_can_add(f"{name}-{task_name}-single")
    if teachers and len(teachers) != len(tasks):
        count_text = f"one for each of the {len(tasks)} tasks, in their order"
        raise ConfigError(
            "the number of teachers does not fit", where="--teacher", got=str(len(teachers)), wanted=count_text
        )
    prompt = requests[0].prompt
    if method_of(prompt).sharing is None:
        able = [f"--method {method_name}" for method_name, method in METHODS.items() if method.sharing]
        raise ConfigError(
            f"several tasks share nothing of method {prompt.method!r}",
            where="prompt.method",
            fix=f"{' or '.join(able)}; `overture meta` learns a start for other methods",
        )
    return requests
