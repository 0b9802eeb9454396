"""Ways to adapt a model, by name: what `overture compare` trains and scores side by side.

A way says how it is made for the rows of one cell; the loop, the rows, the measuring and the report know nothing of it.
``none`` is the model as it is, ``in-context`` puts training rows in front, ``METHOD-PLACE`` is a prompt of the
registry.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from torch import no_grad

from overture.baseline.in_context import in_context_prompt
from overture.core.config import overridden, validated
from overture.core.errors import ConfigError
from overture.core.types import Encoded, Injection, PromptMethod, RowMethod, Scorer, Trainee
from overture.data import Encoder
from overture.data.rows import Row, texts_of
from overture.engine import Backbone, InputCache, PromptedModel
from overture.evaluate.source import prompt_source
from overture.prompt import METHODS, PromptConfig, build_prompt, method_of, prompt_tensors
from overture.store import Store
from overture.store.artifact import tensor_bytes
from overture.study.request import TuneConfig, with_slots
from overture.train import TrainConfig


@dataclass(frozen=True, slots=True)
class Bench:
    """What all ways work with.

    Args:
        backbone: the frozen model.
        store: where prompts are kept, for starts from a stored one.
        cache_bytes: memory for kept inputs.
        notify: told what the user should know.
    """

    backbone: Backbone
    store: Store
    cache_bytes: int | None = None
    notify: Callable[[str], None] = lambda text: None


Rows = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Made:
    """One way, made for one cell.

    Args:
        backbone: the model that computes; a copy where a way changes weights.
        model: answers as the way stands now.
        rows: those it scores, by split; ways may encode them each in its own way.
        served: the model as it would be served, once training is over.
        stored_bytes: what must be kept beside the frozen model, once training is over.
        num_trainable: trained values.
        trainee: what the loop trains; None where it has nothing to train.
        warm: runs what may be kept of rows once.
        facts: what else its cell should record.
    """

    backbone: Backbone
    model: Scorer
    rows: Mapping[str, Sequence[Encoded]]
    served: Callable[[], Scorer]
    stored_bytes: Callable[[], int] = lambda: 0
    num_trainable: int = 0
    trainee: Trainee | None = None
    warm: Callable[[Sequence[Encoded]], None] = lambda rows: None
    facts: dict[str, Any] = field(default_factory=dict)


class Way(Protocol):
    """One way to adapt a model."""

    @property
    def name(self) -> str:
        """As users type it."""
        ...

    @property
    def config(self) -> TuneConfig:
        """The request with what is this way's own."""
        ...

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates worth trying, the default first; none where nothing is trained."""
        ...

    @property
    def needs_rows(self) -> bool:
        """Whether it depends on training rows and seed at all."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """The options that decide its numbers, as its cells record them."""
        ...

    def make(self, bench: Bench, rows: Rows, seed: int) -> Made:
        """Make it for one cell's rows: `train` and `validation` to learn and choose by, `test` to be scored."""
        ...


@dataclass(frozen=True, slots=True)
class NoPrompt:
    """The model as it is."""

    name: str
    config: TuneConfig
    rates: tuple[float, ...] = ()
    needs_rows: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Nothing can be set."""
        return {}

    def make(self, bench: Bench, rows: Rows, seed: int) -> Made:
        """The model alone."""
        del seed
        model = PromptedModel(bench.backbone)
        encoder = Encoder(self.config.task, bench.backbone.tokenizer)
        model.check(encoder.encode(rows["test"][:1]))
        return Made(bench.backbone, model, LazyRows(encoder.encode, rows), lambda: model)


@dataclass(frozen=True, slots=True)
class InContext:
    """Training rows with their answers in front of each row, drawn by seed, as many of each label as possible."""

    name: str
    config: TuneConfig
    rates: tuple[float, ...] = ()
    needs_rows: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """How many examples."""
        return {"shots": self.config.shots}

    def make(self, bench: Bench, rows: Rows, seed: int) -> Made:
        """Run the examples once; what is kept of them is their text."""
        task, train = self.config.task, rows["train"]
        scored = [*rows["validation"], *rows["test"]]
        memory, encoder, count = in_context_prompt(bench.backbone, task, train, scored, self.config.shots, seed)
        if count < min(self.config.shots, len(train)):
            bench.notify(f"only {count} of {self.config.shots} in-context examples fit in front of the longest row")
        model = PromptedModel(bench.backbone, memory)
        texts = ["".join((*texts_of(task, row).values(), str(row.fields[task.target_field]))) for row in train]
        # Which rows were drawn is not told; their mean length tells what they take.
        size = round(count * sum(len(text.encode()) for text in texts) / len(texts))
        return Made(
            bench.backbone,
            model,
            LazyRows(partial(encoder.encode, bos=False), {name: rows[name] for name in ("validation", "test")}),
            lambda: model,
            lambda: size,
            facts={"shots": count},
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
        own = method_of(self.config.prompt).learning_rate[self.config.prompt.place]
        return (own, *(float(f"{own * factor:.1g}") for factor in (1 / 3, 3)))

    @property
    def settings(self) -> dict[str, Any]:
        """The prompt's options."""
        return self.config.prompt.model_dump(mode="json")

    def make(self, bench: Bench, rows: Rows, seed: int) -> Made:
        """A fresh prompt with a cache of its own, so that a cell's costs do not depend on the cells before it."""
        backbone = bench.backbone
        encoder = Encoder(self.config.task, backbone.tokenizer, reserve=self.config.prompt.length)
        encoded = LazyRows(encoder.encode, rows)
        source = prompt_source(backbone, encoder, encoded["train"], bench.store)
        prompt = build_prompt(self.config.prompt, source, seed)
        model = PromptedModel(backbone, prompt, InputCache(bench.cache_bytes, notify=bench.notify))
        model.check(encoded["train"][:1])
        return Made(
            backbone,
            model,
            encoded,
            lambda: PromptedModel(backbone, _constant(prompt, backbone)),
            lambda: len(tensor_bytes(prompt_tensors(prompt), self.name)),
            num_trainable=sum(value.numel() for value in model.trainable().values()),
            trainee=model,
            warm=model.warm,
        )


class LazyRows(Mapping[str, Sequence[Encoded]]):
    """Rows by split, encoded when they are asked for: what a way costs to make is not what test rows cost to read."""

    def __init__(self, encode: Callable[[Sequence[Row]], list[Encoded]], rows: Rows) -> None:
        self._encode, self._rows = encode, rows
        self._found: dict[str, list[Encoded]] = {}

    def __getitem__(self, split: str) -> list[Encoded]:
        """One split's rows."""
        if split not in self._found:
            self._found[split] = self._encode(self._rows[split])
        return self._found[split]

    def __iter__(self) -> Iterator[str]:
        """The splits."""
        return iter(self._rows)

    def __len__(self) -> int:
        """How many splits."""
        return len(self._rows)


def _constant(prompt: PromptMethod | RowMethod, backbone: Backbone) -> RowMethod | Injection:
    """A prompt as it is served: computed once, and as memory where that is the same."""
    if isinstance(prompt, RowMethod):
        return prompt
    with no_grad():
        return backbone.compile(prompt.injection())


Build = Callable[[str, TuneConfig], Way]


def _prompt_way(method: str, place: str) -> Build:
    def build(name: str, config: TuneConfig) -> Way:
        asked = config.prompt
        own = {"method": method, "place": place, "options": asked.options if asked.method == method else {}}
        changed = config.model_copy(update={"prompt": asked.model_copy(update=own)})
        return Prompt(name, changed)

    return build


WAYS: dict[str, Build] = {
    "none": NoPrompt,
    "in-context": InContext,
    **{f"{method}-{place}": _prompt_way(method, place) for method, found in METHODS.items() for place in found.places},
}
"""Ways by name: each makes itself from its name and the request. Baselines join here."""


def way_named(name: str, config: TuneConfig, assignments: Sequence[str] = ()) -> Way:
    """A way with its own settings.

    Args:
        name: a key of `WAYS`.
        config: the request; a learning rate in it is not used, each way has its own.
        assignments: ``prompt.length=20``, ``train.lr=0.01``, for this way alone.

    Raises:
        ConfigError: there is no such way, or its settings do not fit.
    """
    if name not in WAYS:
        near = difflib.get_close_matches(name, WAYS, 1)
        fix = f"did you mean {near[0]!r}?" if near else ""
        raise ConfigError("no such way", where="--way", got=f"{name!r:.80}", wanted=", ".join(WAYS), fix=fix)
    plain = config.model_copy(update={"train": config.train.model_copy(update={"lr": None})})
    way = WAYS[name](name, plain)
    if not assignments:
        return _checked(way)
    # What is set for one way wins over what the way itself implies, such as options of its method.
    sections = {"prompt": way.config.prompt.model_dump(), "train": way.config.train.model_dump(), "shots": plain.shots}
    values = overridden(sections, list(assignments))
    where = f"--set-way {name}"
    unknown = [key for key in values if key not in sections]
    if unknown:
        raise ConfigError("a way has no such setting", where=where, got=unknown[0], wanted="prompt, train or shots")
    prompt = validated(PromptConfig, values["prompt"], where)
    if (prompt.method, prompt.place) != (way.config.prompt.method, way.config.prompt.place):
        raise ConfigError("a way's method and place are its name", where=where, fix="name another way with --way")
    own = plain.model_copy(
        update={"prompt": prompt, "train": validated(TrainConfig, values["train"], where), "shots": values["shots"]}
    )
    return _checked(_with(way, own))


def _with(way: Way, config: TuneConfig) -> Way:
    return replace(way, config=config)  # type: ignore[type-var]


def _checked(way: Way) -> Way:
    if isinstance(way, Prompt):
        method = method_of(way.config.prompt)
        validated(method.options, way.config.prompt.options, f"--way {way.name}: prompt.options")
        return _with(way, with_slots(way.config))
    return way
