"""The request of a run: its options, and the one place where they are merged, validated and checked.

It imports no torch, so that what is wrong is reported at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from overture.core.config import Config, assign, did_you_mean, dotted_keys, parsed, unknown_key, validated
from overture.core.errors import ConfigError, DataError, Problem, UserError
from overture.data.read import parts_of
from overture.data.task import Task
from overture.data.task_file import resolved_path, task_file_values
from overture.engine.options import CacheDType, Device, DType, LoraOptions, local_source
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.registry import check_effect, checked_options, own_rate
from overture.report.track import TrackerName, check_trackers
from overture.store.names import checked_name, is_path
from overture.train.options import TrainConfig

PromptUse = Literal["as it is", "as a model", "unused"]
T = TypeVar("T")
R = TypeVar("R", bound="TuneConfig")

ON_FINISHED = 0.1


class AdapterConfig(LoraOptions):
    """An adapter inside the model, trained together with a prompt."""

    kind: Literal["lora"] = Field("lora", description="An adapter to train with the prompt: lora.")
    stage: Literal["joint", "prompt first", "adapter first"] = Field(
        "joint", description="Both at once, or one after the other: what is finished stays as it is."
    )
    lr: float = Field(1e-3, gt=0, le=10, description="Learning rate of the adapter's values.")


class TuneConfig(Config):
    """Everything that decides a run."""

    task: Task = Field(description="The task; its keys may also stand at the top of the file.")
    prompt: PromptConfig = Field(PromptConfig(), description="What prompt, and where it enters.")
    train: TrainConfig = Field(TrainConfig(), description="How it is trained.")
    adapter: AdapterConfig | None = Field(None, description="An adapter to train together with the prompt.")
    seeds: int = Field(1, ge=1, le=100, description="How many seeds are tuned; the best on validation is kept.")
    seed: int = Field(0, ge=0, description="The first seed.")
    shots: int = Field(8, ge=0, description="In-context examples to compare with; 0 leaves the comparison out.")
    baselines: bool = Field(
        True, description="Whether the model is measured without a prompt and with examples too, after training."
    )
    keep: Literal["winner", "prompt"] = Field(
        "winner",
        description="What is stored of models without words: the winner of a paired test between the prompt and a "
        "linear probe on validation rows, the probe on a tie; or the prompt whatever the test says.",
    )
    cache_gb: float | None = Field(
        None, ge=0, description="Memory for cached texts in GB; a quarter of the free memory if not given."
    )
    cache_dtype: CacheDType = Field(
        "model", description="Precision of cached texts: the model's, or bfloat16 for half of float32's memory."
    )
    cache_on_disk: bool = Field(
        True, description="Keep cached texts on disk for later runs, up to OVERTURE_CACHE_LIMIT GB."
    )
    device: Device = Field("auto", description="cpu, cuda, or auto.")
    dtype: DType = Field(
        "auto",
        description="The model's precision. auto: float32 on a CPU, bfloat16 on a GPU. fastest: bfloat16 also on a CPU "
        "that multiplies faster in it (overture doctor shows the rates).",
    )
    compile_layers: bool = Field(False, description="Run the model's layers as compiled kernels; needs a compiler.")
    tensor_parallel: int = Field(
        1, ge=1, le=1024, description="Processes that hold one model between them, each with some heads of every layer."
    )
    shard: bool = Field(
        False,
        description="Spread the layers' weights over all processes (FSDP2), for a model that nothing else can hold.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub model.")
    track: tuple[TrackerName, ...] = Field(
        (), description="Trackers that follow the run, each an extra to install: tensorboard, mlflow, trackio."
    )

    @property
    def prompt_rate(self) -> float:
        """The prompt's learning rate: as given, or the method's own; a tenth of that on a finished adapter.

        There the loss is near zero already, and the length of AdamW's steps does not depend on the gradient's.
        """
        share = ON_FINISHED if self.adapter and self.adapter.stage == "adapter first" else 1.0
        return self.train.lr or share * own_rate(self.prompt)


SHORT = {"adapter": "adapter.kind", "method": "prompt.method", "place": "prompt.place", "length": "prompt.length"}
"""Settings that have a shorter name."""

_SECTIONS = ("prompt", "train", "data", "search", "hard")
DATA_FILES = ("train", "validation", "test", "path", "more")
_DATA_KEYS = tuple(f"data.{name}" for name in DATA_FILES)
_SPREAD_KEYS = ("tensor_parallel", "shard")


def _whole_path(key: str, value: Any, folder: Path) -> Any:
    """The value of a key with relative paths in it made absolute: runs and prompts are used from elsewhere too.

    Args:
        key: dotted.
        value: a text, a path, or a list or mapping with them; anything else stays as it is.
        folder: where relative paths start: the task file's, or the working folder for flags and Python.
    """
    if isinstance(value, Mapping):
        return {name: _whole_path(f"{key}.{name}", inner, folder) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_path(key, entry, folder) for entry in value]
    if not isinstance(value, str | Path) or not value:
        return value
    text, (proposer, _, argument) = str(value), str(value).partition(":")
    if key == "backbone":
        return local_source(text, folder)
    if key == "hard.sources" and argument and proposer in ("file", "model"):
        whole = resolved_path(argument, key, folder) if proposer == "file" else local_source(argument, folder)
        return f"{proposer}:{whole}"
    prompt_options = (f"prompt.options.{ref}" for method in METHODS.values() for ref in method.refs)
    names_prompt = key == "prompt.init_prompt" or key in prompt_options
    is_local = key in _DATA_KEYS or (names_prompt and is_path(value))
    return resolved_path(text, key, folder) if is_local else value


def resolved(
    model: type[R],
    source: Path | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    *,
    prompt_use: PromptUse = "as it is",
    change: Callable[[dict[str, Any]], None] = lambda values: None,
) -> R:
    """A request: defaults, over them the task file, over it named settings, over them assignments.

    A method that cannot enter at the default place gets its own first place, unless a place is given.

    Args:
        model: the class of the request; one without the section `search` passes over it.
        source: the task file, or its values with paths from the working folder; the keys of `TuneConfig` may stand
            beside the task's.
        settings: by dotted key, or nested: ``{"train.lr": 0.01, "prompt": {"length": 20}}``; None stands for not given.
        assignments: ``train.lr=0.01``, ``data.train=rows.jsonl``; the value is read as YAML.
        prompt_use: a prompt that is used as it is must fit the template; one on which others are modelled must be
            right by itself; one that is unused is not looked at.
        change: completes the merged values, where more than a default depends on what was left out.

    Raises:
        ConfigError: names every mistake, with the nearest known key.
        DataError: data files are missing, and nothing else is wrong.
        StoreError: the task's name is a device's on some system, and nothing else is wrong.
    """
    values = _merged(source, settings or {}, assignments)
    where = "the task" if isinstance(source, Mapping) else str(source)
    change(values)
    prompt_values = values.get("prompt")
    if isinstance(prompt_values, Mapping) and prompt_values.get("place") is None:
        method = METHODS.get(str(prompt_values.get("method")))
        if method and PromptConfig().place not in method.places:
            values["prompt"] = {**prompt_values, "place": method.places[0]}

    errors: list[UserError] = []
    config = _attempt(errors, lambda: _validated(values, model, where))
    prompt = config.prompt if config else _attempt([], lambda: validated(PromptConfig, prompt_values or {}, ""))
    if prompt_use != "unused" and prompt:
        is_known = _attempt(errors, lambda: checked_options(prompt))
        if is_known:
            _attempt(errors, lambda: check_effect(prompt))
    if config:
        _attempt(errors, partial(checked_name, config.task.name))
        _attempt(errors, partial(check_trackers, config.track))
        _attempt(errors, partial(_check_class_weights, config))
        _attempt(errors, partial(_check_adapter, config))
    if prompt_use == "as it is" and config:
        config = _attempt(errors, partial(with_slots, config))
    if missing := list(_missing_files(values.get("data"))):
        errors.append(DataError(f"the data cannot be used: {len(missing)} missing", problems=missing))
    if errors or config is None:
        raise _joined(errors, where)
    return config


def tune_config(path: Path, assignments: Sequence[str] = ()) -> TuneConfig:
    """A task file's request, for jobs that use its task alone: prompt and data files are not checked.

    Raises:
        ConfigError: every mistake, with the nearest known key.
    """
    return _validated(_merged(path, {}, assignments), TuneConfig, str(path))


def _merged(
    source: Path | Mapping[str, Any], settings: Mapping[str, Any], assignments: Sequence[str]
) -> dict[str, Any]:
    """The task's values with settings and assignments over them; data files get their whole path."""
    values = task_values(source)
    named_settings = [(SHORT.get(key, key), value) for key, value in _flat(settings) if value is not None]
    for key, value in [*named_settings, *map(parsed, assignments)]:
        assign(values, key.split("."), _whole_path(key, value, Path()))
    return values


def task_values(source: Path | Mapping[str, Any]) -> dict[str, Any]:
    """The values of a task file, or those given, with their paths made absolute.

    Raises:
        ConfigError: the file cannot be read, or holds rows.
    """
    if isinstance(source, Mapping):
        return {key: _whole_path(key, value, Path()) for key, value in source.items()}
    folder = Path(source).parent
    return {key: _whole_path(key, value, folder) for key, value in task_file_values(Path(source)).items()}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and (prefix or key in _SECTIONS):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _validated(values: Mapping[str, Any], model: type[R], where: str) -> R:
    """The request of merged values; of a key that no section has the nearest of all keys is named.

    Raises:
        ConfigError: every mistake.
    """
    sections = [key for key in model.model_fields if key != "task"]
    keys = [*Task.model_fields, *sections]
    paths = [key.removeprefix("task.") for key in dotted_keys(model)]
    problems = [unknown_key(key, keys, paths) for key in values if key not in (*keys, "search", "hard")]
    task = {key: value for key, value in values.items() if key in Task.model_fields}
    section_values = {key: value for key, value in values.items() if key in sections}
    try:
        config = validated(model, {**section_values, "task": task}, where)
    except ConfigError as error:
        # A task's keys stand at the top of the file.
        problems += [Problem(item.where.removeprefix("task."), item.what, item.fix) for item in error.problems]
    if problems:
        raise ConfigError("the task file or the settings are wrong", where=where, problems=problems)
    return config


def _check_class_weights(config: TuneConfig) -> None:
    weights, task = config.train.class_weights, config.task
    if weights == "none":
        return
    if not task.spec.has_classes:
        raise ConfigError(
            "class weights need rows with one label each",
            where="train.class_weights",
            got=f"a task of kind {task.kind}",
            wanted="classification",
            fix="leave them out",
        )
    if isinstance(weights, dict) and (unknown := [label for label in weights if label not in task.words]):
        raise ConfigError(
            "a weight is for a label that the task has not",
            where="train.class_weights",
            got=unknown[0],
            wanted=", ".join(task.words),
            fix=did_you_mean(unknown[0], task.words),
        )


def _check_adapter(config: TuneConfig) -> None:
    prompt, method = config.prompt, METHODS.get(config.prompt.method)
    if config.adapter is None or config.adapter.place == "everywhere" or method is None:
        return
    if prompt.place != "after" or method.has_layer:
        raise ConfigError(
            "an adapter at 'after' leaves the input to the frozen model, and this prompt would change it",
            where="adapter.place",
            got=f"{prompt.method} at {prompt.place}",
            wanted="a prompt at after that enters at the first layer, such as prefix",
            fix="--place after, or --set adapter.place=everywhere",
        )


def _missing_files(data: Any) -> Iterator[Problem]:
    for name in DATA_FILES if isinstance(data, Mapping) else ():
        path = Path(data[name]) if isinstance(data.get(name), str) and data[name] else None
        if path and not path.exists() and not parts_of(path):
            folder = path.parent
            yield Problem(
                str(path), "no such file" if folder.is_dir() else f"no such folder: {folder}", "check the path"
            )


def _attempt(errors: list[UserError], check: Callable[[], T]) -> T | None:
    """The result of a check; its error is added to the others."""
    try:
        return check()
    except UserError as error:
        errors.append(error)
        return None


def _joined(errors: Sequence[UserError], where: str) -> UserError:
    """One error of several; a single one stays as it is."""
    if len(errors) == 1:
        return errors[0]
    problems = [
        problem
        for error in errors
        for problem in error.problems
        or [Problem(error.where, error.what + (f", got {error.got}" if error.got else ""), error.fix or error.wanted)]
    ]
    return ConfigError("the task file or the settings are wrong", where=where, problems=problems)


def with_moved_data(config: R, assignments: Sequence[str]) -> R:
    """The request of a run with the paths where its data files lie now, in the processes that work on it now.

    Args:
        config: the request.
        assignments: ``data.train=rows.jsonl``, ``tensor_parallel=2``; no other setting of a run that has begun may
            change.

    Raises:
        ConfigError: a key is another's, or its value is none.
        DataError: a file is not there.
    """
    files = dict(map(parsed, assignments))
    spread = {key: files.pop(key) for key in _SPREAD_KEYS if key in files}
    if spread:
        config = validated(type(config), {**config.model_dump(), **spread}, "--set")
    if problems := [unknown_key(key, (*_DATA_KEYS, *_SPREAD_KEYS)) for key in files if key not in _DATA_KEYS]:
        raise ConfigError(
            "a run that has begun keeps its settings; only its data files and its processes may be others",
            where="--set",
            fix="start a new run with other settings: overture tune TASK.yaml --set ...",
            problems=problems,
        )
    paths = {key.removeprefix("data."): Path(str(file)).expanduser().resolve() for key, file in files.items()}
    if missing := list(_missing_files({name: str(path) for name, path in paths.items()})):
        raise DataError(f"the data cannot be used: {len(missing)} missing", problems=missing)
    task = config.task.model_copy(update={"data": config.task.data.model_copy(update=paths)})
    return config.model_copy(update={"task": task})


def check_texts_alone(task: Task, job: str) -> None:
    """Refuse rows with images or sounds where only texts can be worked on.

    Args:
        task: of the rows.
        job: the command or its work, for the error.

    Raises:
        ConfigError: the task's input is no text.
    """
    if task.media:
        raise ConfigError(
            f"{job} works on rows of text alone",
            where="input",
            got=task.input,
            wanted="text",
            fix="overture tune trains a prompt for such rows",
        )


def check_no_adapter(config: TuneConfig, job: str) -> None:
    """Refuse an adapter in a job that trains none.

    Raises:
        ConfigError: the request has one.
    """
    if config.adapter:
        raise ConfigError(
            f"{job} trains no adapter", where="adapter", got=config.adapter.kind, fix="leave it out, or overture tune"
        )


def check_one_process(config: TuneConfig) -> None:
    """Refuse a request for several processes in a job that has one.

    Raises:
        ConfigError: the request is for several.
    """
    if config.tensor_parallel > 1 or config.shard:
        raise ConfigError(
            "only overture tune, started by torchrun, spreads a model over several processes",
            where="shard" if config.shard else "tensor_parallel",
            got="true" if config.shard else str(config.tensor_parallel),
            fix="leave it out, or torchrun --nproc-per-node N -m overture tune ...",
        )


def with_slots(config: R) -> R:
    """The request with the prompt's length taken from the template's slots.

    Raises:
        ConfigError: the template has slots and the place is another, or the reverse; or their number is not the length.
    """
    num_vectors, prompt = config.task.num_slot_vectors, config.prompt
    if prompt.place != "slots":
        if num_vectors:
            raise ConfigError(
                "the template contains {prompt:...}, so prompt.place must be 'slots'",
                where="prompt.place",
                got=prompt.place,
                wanted="slots",
                fix="--place slots, or take {prompt:...} out of the template",
            )
        return config
    if not num_vectors:
        raise ConfigError(
            "prompt.place is 'slots', but the template has no {prompt:...}",
            where="template",
            fix="write {prompt:5} where it should stand",
        )
    if "length" in prompt.model_fields_set and prompt.length != num_vectors:
        raise ConfigError(
            "the template holds another number of prompt vectors than prompt.length",
            where="prompt.length",
            got=str(prompt.length),
            wanted=str(num_vectors),
        )
    return config.model_copy(update={"prompt": prompt.model_copy(update={"length": num_vectors})})
