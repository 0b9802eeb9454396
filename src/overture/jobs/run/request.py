"""What a run is asked to do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from overture.core.config import Config, overridden, read_yaml, validated
from overture.core.errors import ConfigError
from overture.data.task import Task, with_paths_from
from overture.engine.backbone import Backbone
from overture.engine.cache import default_budget_bytes
from overture.engine.load import is_encoder
from overture.engine.options import LoraOptions
from overture.jobs.run.search_config import SearchConfig
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.registry import own_rate, with_refs
from overture.store.store import Store
from overture.train.options import TrainConfig

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
    name: str = Field("", description="Name of the prompt in the store; the task's name when empty.")
    prompt: PromptConfig = Field(PromptConfig(), description="What prompt, and where it enters.")
    train: TrainConfig = Field(TrainConfig(), description="How it is trained.")
    adapter: AdapterConfig | None = Field(None, description="An adapter to train together with the prompt.")
    seeds: int = Field(1, ge=1, le=100, description="How many seeds are tuned; the best on validation is kept.")
    seed: int = Field(0, ge=0, description="The first seed.")
    shots: int = Field(8, ge=0, description="In-context examples to compare with; 0 leaves the comparison out.")
    cache_gb: float | None = Field(
        None, ge=0, description="Memory for kept inputs, GB; a quarter of the free when empty."
    )
    device: str = Field("auto", description="cpu, cuda, or auto.")
    dtype: str = Field("auto", description="float32, bfloat16, or auto.")
    compile_layers: bool = Field(False, description="Run the model's layers as compiled kernels; needs a compiler.")
    search: SearchConfig = Field(SearchConfig(), description="What `overture search` may choose from and spend.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub model.")

    @property
    def prompt_rate(self) -> float:
        """The prompt's learning rate: as asked, or its own; a tenth of that on a finished adapter.

        There the loss is near zero already, and AdamW's steps are as long as its rate says however small the gradient.
        """
        share = ON_FINISHED if self.adapter and self.adapter.stage == "adapter first" else 1.0
        return self.train.lr or share * own_rate(self.prompt)


def tune_config(path: Path, assignments: Sequence[str] = ()) -> TuneConfig:
    """A request from a task file and settings: default < file < settings.

    Args:
        path: the task file; keys of `TuneConfig` may stand beside the task's.
        assignments: ``train.lr=0.01``, ``prompt.length=20``, ``data.train_rows=64``.

    Raises:
        ConfigError: every mistake, with the nearest known key.
    """
    values = overridden(with_paths_from(Path(path).parent, read_yaml(path)), list(assignments))
    own = {
        key: values.pop(key) for key in list(values) if key in TuneConfig.model_fields and key not in ("name", "task")
    }
    task = validated(Task, values, str(path))
    return validated(TuneConfig, {**own, "task": task}, str(path))


def fitting_place(config: TuneConfig, backbone: Backbone | None) -> TuneConfig:
    """`with_place` for a loaded model, or for the one that the request names."""
    if backbone is None:
        return with_place(config, is_encoder(config.task.backbone, config.revision))
    return with_place(config, not backbone.family.is_causal)


def with_place(config: TuneConfig, is_encoder: bool) -> TuneConfig:
    """The request with a place that the model's kind can use, where none was asked for.

    An encoder keeps no memory of its input for keys and values to follow; there they stand before the text, and an
    encoder's text sees them from everywhere.
    """
    prompt, method = config.prompt, METHODS.get(config.prompt.method)
    if not is_encoder or "place" in prompt.model_fields_set or method is None:
        return config
    if "memory" not in method.places or prompt.place not in method.places:
        return config
    return config.model_copy(update={"prompt": prompt.model_copy(update={"place": "memory"})})


def pinned(config: TuneConfig, store: Store) -> TuneConfig:
    """The request with the version of every stored prompt that it names: who goes on with it begins there again.

    Raises:
        StoreError: there is no such prompt.
    """
    return config.model_copy(update={"prompt": with_refs(config.prompt, store.pinned)})


def settled(config: TuneConfig, store: Store, backbone: Backbone | None) -> TuneConfig:
    """The request of a run that is about to begin, with all that must stay as it is now when it is resumed.

    That is place and length where the model or the template decide them, versions of stored prompts, and the memory
    for kept inputs, whatever is free by then.

    Raises:
        UserError: the model or a stored prompt is not there.
        StoreError: the store cannot be written; told before anything is trained.
    """
    store.check_writable()
    config = pinned(with_slots(fitting_place(config, backbone)), store)
    if config.cache_gb is None:
        config = config.model_copy(update={"cache_gb": default_budget_bytes() / 1e9})
    return config


def check_no_adapter(config: TuneConfig, what: str) -> None:
    """Refuse an adapter where none would be trained.

    Raises:
        ConfigError: the request has one.
    """
    if config.adapter:
        raise ConfigError(
            f"{what} trains no adapter", where="adapter", got=config.adapter.kind, fix="leave it out, or overture tune"
        )


def with_slots(config: TuneConfig) -> TuneConfig:
    """The request with the prompt's length taken from the template's own places for it.

    Raises:
        ConfigError: place and template do not agree on whether the template has such places.
    """
    num_vectors, prompt = config.task.num_slot_vectors, config.prompt
    if prompt.place != "slots":
        if num_vectors:
            raise ConfigError(
                "the template says where the prompt stands",
                where="prompt.place",
                got=prompt.place,
                wanted="slots",
                fix="--place slots, or take {prompt:...} out of the template",
            )
        return config
    if not num_vectors:
        raise ConfigError(
            "the template has no place for the prompt", where="template", fix="write {prompt:5} where it should stand"
        )
    if "length" in prompt.model_fields_set and prompt.length != num_vectors:
        raise ConfigError(
            "the template has room for another number of vectors",
            where="prompt.length",
            got=str(prompt.length),
            wanted=str(num_vectors),
        )
    return config.model_copy(update={"prompt": prompt.model_copy(update={"length": num_vectors})})
