"""Ways to adapt a model, by name: what `overture compare` trains and scores side by side.

A way makes itself for the rows of one cell; the loop, the rows, the measuring and the report do not know ways.
``METHOD-PLACE`` is a prompt of the registry, such as ``prefix-after``; ``prompt:NAME`` is a stored prompt as it is; all
others are baselines. What a way computes with is imported when it is made, so that names and settings are checked
without torch.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import JsonValue

from overture.baseline.registry import baseline_of, build_baseline
from overture.core.config import overridden, validated
from overture.core.contracts import PromptMethod, RowMethod, Scorer, Trainee
from overture.core.errors import ConfigError
from overture.core.injection import Injection
from overture.core.records.cells import NO_PROMPT
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.task import Task
from overture.jobs.compare.options import CompareConfig
from overture.jobs.run.request import TuneConfig, with_slots
from overture.jobs.run.settled import pinned
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.registry import check_effect, method_of, own_rate
from overture.store.artifact import TENSORS_FILE, tensor_bytes
from overture.store.store import Store
from overture.train.options import TrainConfig

if TYPE_CHECKING:
    from overture.engine.backbone import Backbone


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that all ways work with.

    Args:
        backbone: the frozen model.
        store: where prompts are kept, for starts from a stored one.
        cache_bytes: memory for kept inputs.
        notify: called with sentences for the user.
    """

    backbone: "Backbone"
    store: Store
    cache_bytes: int | None = None
    notify: Callable[[str], None] = lambda text: None


Rows = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class BuiltWay:
    """A way that is ready to train or to score, for one cell.

    Args:
        backbone: the model that computes; a copy where a way changes weights.
        model: answers with the values as they are now.
        rows: rows to score, by split; ways may encode them differently.
        served: gives the model as it would be served, once training is over.
        stored_bytes: gives the bytes to keep beside the frozen model, once training is over.
        num_trainable: number of trained values.
        trainee: given to the training loop; None where nothing is trained.
        warm: runs inputs whose results are kept.
        facts: further facts for the cell.
        notices: sentences about rows that were changed by encoding; grows as more are encoded.
        task: says how answers are read from scores, such as a stored prompt's own; the comparison's when None.
    """

    backbone: "Backbone"
    model: Scorer
    rows: Mapping[str, Sequence[Encoded]]
    served: Callable[[], Scorer]
    stored_bytes: Callable[[], int] = lambda: 0
    num_trainable: int = 0
    trainee: Trainee | None = None
    warm: Callable[[Sequence[Encoded]], None] = lambda rows: None
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    notices: Sequence[str] = ()
    task: Task | None = None


class Way(Protocol):
    """One way to adapt a model."""

    @property
    def name(self) -> str:
        """As users type it."""
        ...

    @property
    def config(self) -> TuneConfig:
        """The request with the way's own settings."""
        ...

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates to try, the default first; none where nothing is trained."""
        ...

    @property
    def needs_rows(self) -> bool:
        """Whether it depends on training rows and seed at all."""
        ...

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The options that decide its numbers, for its cells."""
        ...

    def make(self, resources: Resources, rows: Rows, seed: int) -> BuiltWay:
        """Make the way for a cell's rows: `train` to learn from, `validation` to choose by, `test` to score."""
        ...


@dataclass(frozen=True, slots=True)
class Compared:
    """A baseline of the registry, with options of its own."""

    name: str
    config: TuneConfig
    baseline: str
    options: dict[str, Any]

    @property
    def rates(self) -> tuple[float, ...]:
        """The baseline's learning rates, its default first; only the user's where one is set."""
        baseline = baseline_of(self.baseline)
        if baseline.learning_rate is None:
            return ()
        if self.config.train.lr:
            return (self.config.train.lr,)
        return (baseline.learning_rate, *(rate for rate in baseline.rates if rate != baseline.learning_rate))

    @property
    def needs_rows(self) -> bool:
        """False for the template alone, and for the template with a text."""
        return self.baseline not in ("none", "text")

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The baseline's options."""
        return {"baseline": self.baseline, **self.options}

    def make(self, resources: Resources, rows: Rows, seed: int) -> BuiltWay:
        """The baseline, ready to train or to score."""
        from overture.baseline.base import LazyRows, Request
        from overture.engine.prompted import PromptedModel

        encoder = Encoder(
            self.config.task, resources.backbone.text.tokenizer, class_weights=self.config.train.class_weights
        )
        encoded = LazyRows(encoder.encode_split, rows)
        request = Request({}, resources.backbone, encoder, rows, encoded, seed)
        baseline = build_baseline(self.baseline, self.options, request)
        model = baseline.model
        backbone = model.backbone if isinstance(model, PromptedModel) else resources.backbone

        def served() -> Scorer:
            if not isinstance(model, PromptedModel) or baseline.trainee is None:
                return model
            backbone.freeze()
            prompt = model.prompt
            if isinstance(prompt, PromptMethod | RowMethod):
                return PromptedModel(backbone, _constant(prompt, backbone))
            return PromptedModel(backbone, prompt)

        return BuiltWay(
            backbone,
            model,
            baseline.rows,
            served,
            lambda: baseline.stored_bytes,
            baseline.num_trainable,
            baseline.trainee,
            model.warm if isinstance(model, PromptedModel) else lambda rows: None,
            facts=baseline.facts,
            notices=baseline.notices or encoder.notices,
        )


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of the registry; the learning rates worth trying lie a factor of three around its own."""

    name: str
    config: TuneConfig
    needs_rows: bool = True

    @property
    def rates(self) -> tuple[float, ...]:
        """The method's own, a third and three times of it; one alone where the user set it."""
        if self.config.train.lr:
            return (self.config.train.lr,)
        rate = own_rate(self.config.prompt)
        return (rate, *(float(f"{rate * factor:.1g}") for factor in (1 / 3, 3)))

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The prompt's options."""
        return self.config.prompt.model_dump(mode="json")

    def make(self, resources: Resources, rows: Rows, seed: int) -> BuiltWay:
        """A fresh prompt with a cache of its own, so that a cell's costs do not depend on the cells before it."""
        from overture.baseline.base import LazyRows
        from overture.engine.cache import InputCache
        from overture.engine.prompted import PromptedModel
        from overture.evaluate.scoring import check_answerable
        from overture.evaluate.source import prompt_source
        from overture.jobs.tune.ladder import with_read_layer
        from overture.prompt.build import build_prompt
        from overture.prompt.pack import prompt_tensors

        backbone = resources.backbone
        encoder = Encoder(
            self.config.task,
            backbone.text.tokenizer,
            self.config.prompt.length,
            class_weights=self.config.train.class_weights,
        )
        encoded = LazyRows(encoder.encode_split, rows)
        cache = InputCache(resources.cache_bytes, notify=resources.notify, dtype=self.config.cache_dtype)
        source = prompt_source(backbone, encoder, encoded["train"], resources.store, cache)
        config = with_read_layer(self.config.prompt, backbone, cache, encoded, encoder.candidates)
        prompt = build_prompt(config, source, seed)
        model = PromptedModel(backbone, prompt, cache)
        check_answerable(model, encoded["train"], self.config.task)
        return BuiltWay(
            backbone,
            model,
            encoded,
            lambda: PromptedModel(backbone, _constant(prompt, backbone)),
            lambda: len(tensor_bytes(prompt_tensors(prompt), self.name)),
            num_trainable=sum(value.numel() for value in model.trainable().values()),
            trainee=model,
            warm=model.warm,
            notices=encoder.notices,
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored prompt, of words or of vectors, as it is: nothing is trained."""

    name: str
    config: TuneConfig
    ref: str
    rates: tuple[float, ...] = ()
    needs_rows: bool = False

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The prompt with its version."""
        return {"prompt": self.ref}

    def make(self, resources: Resources, rows: Rows, seed: int) -> BuiltWay:
        """The prompt on the comparison's model, which shows rows and labels in the prompt's own words.

        Raises:
            ConfigError: it answers another question than the comparison's task.
            ArtifactError: it was made for another model.
        """
        from overture.baseline.base import LazyRows
        from overture.evaluate.host import Host

        handle = Host(resources.backbone, resources.store, notify=resources.notify).open(self.ref)
        expected, actual = ((task.kind, *task.words) for task in (self.config.task, handle.task))
        if set(expected) != set(actual):
            raise ConfigError(
                "the stored prompt answers another task",
                where=f"--way {self.name}",
                got=", ".join(actual),
                wanted=", ".join(expected),
            )
        text = handle.manifest.text
        stored_bytes = (
            len((text.before + text.after).encode()) if text else (handle.folder / TENSORS_FILE).stat().st_size
        )
        return BuiltWay(
            handle.adapted,
            handle.model(),
            LazyRows(handle.encoder.encode_split, rows),
            handle.model,
            lambda: stored_bytes,
            notices=handle.encoder.notices,
            task=handle.task,
        )


def _constant(prompt: PromptMethod | RowMethod, backbone: "Backbone") -> RowMethod | Injection:
    """A prompt as it is served: computed once, and as memory where that is the same."""
    if isinstance(prompt, RowMethod):
        return prompt
    import torch

    from overture.engine.compiled import compiled_prompt

    with torch.no_grad():
        return compiled_prompt(backbone, prompt.injection())


_STORED = "prompt:"
_NEAREST = 5
"""Ways that an error names beside the baselines."""

Build = Callable[[str, TuneConfig], Way]


def _prompt_way(method: str, place: str) -> Build:
    def build(name: str, config: TuneConfig) -> Way:
        options = config.prompt.options if config.prompt.method == method else {}
        prompt = config.prompt.model_copy(update={"method": method, "place": place, "options": options})
        return Prompt(name, config.model_copy(update={"prompt": prompt}))

    return build


def _baseline_way(baseline: str, **options: Any) -> Build:
    def build(name: str, config: TuneConfig) -> Way:
        shots = {"shots": max(1, config.shots)} if baseline == "in_context" else {}
        return Compared(name, config, baseline, {**shots, **options})

    return build


WAYS: dict[str, Build] = {
    NO_PROMPT: _baseline_way("none"),
    "text": _baseline_way("text"),
    "in-context": _baseline_way("in_context"),
    "in-context:random": _baseline_way("in_context", choice="random"),
    "in-context:nearest": _baseline_way("in_context", choice="nearest"),
    "in-context:orders": _baseline_way("in_context", orders=8),
    "in-context:calibrated": _baseline_way("in_context", calibrated=True),
    "linear": _baseline_way("linear"),
    "linear:search": _baseline_way("linear", layer="search", features="search"),
    "head": _baseline_way("head"),
    "bitfit": _baseline_way("bitfit"),
    "bitfit:norms": _baseline_way("bitfit", values="norms"),
    "lora": _baseline_way("lora"),
    "lora:after": _baseline_way("lora", place="after"),
    "full": _baseline_way("full"),
    **{f"{method}-{place}": _prompt_way(method, place) for method, entry in METHODS.items() for place in entry.places},
}
"""Ways by name: each makes itself from its name and the request. A variant of a baseline is one line here."""


def way_named(name: str, config: TuneConfig, assignments: Sequence[str] = ()) -> Way:
    """A way with its own settings.

    Args:
        name: a key of `WAYS`, or ``prompt:NAME``.
        config: the request; a learning rate in it is not used, each way has its own.
        assignments: ``train.lr=0.01``, ``prompt.length=20`` of a prompt, ``options.rank=4`` of a baseline, for this way
            alone.

    Raises:
        ConfigError: there is no such way, or its settings do not fit.
    """
    kind, is_stored, ref = name.partition(_STORED)
    if is_stored and not kind:
        if assignments or not ref:
            raise ConfigError(
                "a stored prompt is compared as it is",
                where=f"--way {name}",
                wanted="prompt:NAME or prompt:NAME@VERSION",
            )
        return Stored(name, config, ref)
    if name not in WAYS:
        longer = [way_name for way_name in WAYS if way_name.startswith(f"{name}-")]
        near = list(dict.fromkeys([*longer, *difflib.get_close_matches(name, WAYS, _NEAREST, 0.4)]))[:_NEAREST]
        prompts = {f"{method}-{place}" for method, entry in METHODS.items() for place in entry.places}
        baselines = ", ".join(way_name for way_name in WAYS if way_name not in prompts)
        raise ConfigError(
            "no such way",
            where="--set-way" if assignments else "--way",
            got=f"{name!r:.80}",
            wanted=f"{baselines}, METHOD-PLACE as `overture methods` lists them, or {_STORED}NAME for a stored prompt",
            fix=f"the nearest: {', '.join(near)}" if near else "",
        )
    plain = config.model_copy(update={"train": config.train.model_copy(update={"lr": None})})
    way = WAYS[name](name, plain)
    return _checked(_with_settings(way, plain, assignments) if assignments else way)


def _with_settings(way: Way, plain: TuneConfig, assignments: Sequence[str]) -> Way:
    """The way with settings of its own, which win over those that it implies, such as options of its method.

    Raises:
        ConfigError: they do not fit the way.
    """
    sections: dict[str, Any] = {"train": way.config.train.model_dump()}
    sections |= (
        {"options": way.options}
        if isinstance(way, Compared)
        else {"prompt": way.config.prompt.model_dump(exclude_unset=True)}
    )
    values = overridden(sections, list(assignments))
    where = f"--set-way {way.name}"
    unknown = [key for key in values if key not in sections]
    if unknown:
        section = next(key for key in sections if key != "train")
        raise ConfigError(
            "a way has no such setting",
            where=where,
            got=unknown[0],
            wanted=f"keys that begin with train. or {section}.",
            fix=f"--set-way {way.name}:{section}.{unknown[0]}=..., if {section} has this key",
        )
    if not way.rates and values["train"] != sections["train"]:
        raise ConfigError(
            "this way trains nothing, so no setting of its training has an effect",
            where=where,
            got=", ".join(assignments),
            wanted="keys that begin with options.",
            fix="leave it out",
        )
    config = plain.model_copy(update={"train": validated(TrainConfig, values["train"], where)})
    if isinstance(way, Compared):
        return replace(way, config=config, options=values["options"])
    prompt = validated(PromptConfig, values["prompt"], where)
    if (prompt.method, prompt.place) != (way.config.prompt.method, way.config.prompt.place):
        raise ConfigError(
            "--set-way cannot change method or place",
            where=where,
            got=f"{prompt.method}-{prompt.place}",
            wanted=way.name,
            fix="compare another way with --way, such as vectors-before",
        )
    check_effect(prompt)
    return _with(way, config.model_copy(update={"prompt": prompt}))


def ways_of(config: CompareConfig, only: str = "") -> list[Way]:
    """The ways that a comparison names, with their settings; none where the usual ones, which need a model, are taken.

    Args:
        config: of the comparison.
        only: the way of the one cell that is to run; empty when all are.

    Raises:
        ConfigError: there is no such way, its settings do not fit, or settings, reference or cell name a way that is
            not compared.
    """
    ways = [way_named(name, config.tune, config.settings.get(name, ())) for name in config.ways]
    namings = [("--set-way", name) for name in config.settings]
    namings += [(option, name) for option, name in (("--cell", only), ("--reference", config.reference)) if name]
    for option, name in namings:
        if name not in config.ways:
            way_named(name, config.tune, config.settings.get(name, ()))
            if not config.ways:
                continue
            way_names = ", ".join(config.ways)
            fix = f"compare it too: {' '.join(f'--way {way_name}' for way_name in (*config.ways, name))}"
            raise ConfigError("this way is not compared", where=option, got=name, wanted=way_names, fix=fix)
    return ways


def with_versions(way: Way, store: Store) -> Way:
    """A way with the version of every stored prompt that it names: its cells say what they began with.

    Raises:
        StoreError: there is no such prompt.
    """
    if isinstance(way, Stored):
        return replace(way, ref=store.pinned(way.ref))
    return _with(way, pinned(way.config, store)) if isinstance(way, Prompt) else way


def _with(way: Way, config: TuneConfig) -> Way:
    return replace(way, config=config)  # type: ignore[type-var]


def _checked(way: Way) -> Way:
    if isinstance(way, Prompt):
        method = method_of(way.config.prompt)
        validated(method.options, way.config.prompt.options, f"--way {way.name}: prompt.options")
        return _with(way, with_slots(way.config))
    if isinstance(way, Compared):
        if way.name == "text" and "text" not in way.options:
            raise ConfigError(
                "this way needs the text that stands in front of the template",
                where="--way text",
                got="none",
                wanted="options.text",
                fix='--set-way "text:options.text=Judge the film: good or bad? ", with words for your task',
            )
        validated(baseline_of(way.baseline).options, way.options, f"--way {way.name}: options")
    return way
