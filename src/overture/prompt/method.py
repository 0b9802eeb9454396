"""What a prompt method is: the form that every file of this package fills in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from overture.core.config import Config
from overture.core.contracts import PromptMethod, RowMethod
from overture.core.injection import Injection, LayerMemory, Place
from overture.core.seeds import derived_seed
from overture.prompt.source import PromptSource


class PromptModule(torch.nn.Module):
    """Base of the methods: parameters are what is trained, buffers are what the prompt needs besides.

    A method has `injection` (`core.contracts.PromptMethod`), or `injections` when it depends on the row (`RowMethod`).
    """

    def trainable(self) -> dict[str, Tensor]:
        """What gradient descent may change, by name."""
        return dict(self.named_parameters())

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name; 1 where none is given."""
        return {}

    def compact(self) -> dict[str, Tensor]:
        """What stands for the vectors on disk, where fewer numbers give them (`core.projected`); most have no such."""
        return {}


@dataclass(frozen=True, slots=True)
class Request:
    """What a method builds a prompt from.

    Args:
        options: its own, checked.
        place: where the prompt enters.
        start: token-like vectors to start from, float32 [P, D].
        source: the frozen model's facts.
        seed: of the run.
        memory: the keys and values to start from, when a stored prompt gave them.
    """

    options: Any
    place: Place
    start: Tensor
    source: PromptSource
    seed: int
    memory: LayerMemory | None = None

    @property
    def length(self) -> int:
        """Prompt length, P."""
        return int(self.start.shape[0])

    def start_memory(self) -> LayerMemory:
        """Keys and values to start from: a stored prompt's, or those of the starting vectors."""
        return self.memory or self.source.memory_of(self.start)

    def generator(self, name: str) -> torch.Generator:
        """Random numbers of one part; they depend on the seed and the name alone."""
        return torch.Generator().manual_seed(derived_seed(self.seed, name))


Built = PromptMethod | RowMethod


@dataclass(frozen=True, slots=True)
class Sharing:
    """How several tasks, trained together, share a method's values.

    Args:
        names: the values that all tasks have in common.
        distil: weight of what single-task prompts teach; 0 when the method's authors have no teachers.
        start: what the tasks have in common, as a prompt from which another task starts; None where there is none.
    """

    names: tuple[str, ...]
    distil: float = 0.0
    start: Callable[[Any], Injection] | None = None


@dataclass(frozen=True, slots=True)
class PeftType:
    """The type of adapter that peft has for a method.

    Args:
        name: as peft names it.
        keys: from the method's options, those of the type's config keys that no other type has.
    """

    name: str
    keys: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Method:
    """A prompt method.

    Args:
        title: in one line, what is trained.
        source: author and year.
        options: its own options.
        places: where it can enter.
        learning_rate: what worked for it at each place (see docs/log.md).
        rated_length: prompts longer than this take less of that rate, in proportion; None where all lengths take it.
        build: makes the module.
        formula: how many values are trained: P prompt length, D model width, N layers, H key/value heads, K head width,
            C labels, and letters of its own.
        variants: the formula where an option has a value, by ``option=value``.
        letters: for each letter of its own the option, or what follows from the options, that it stands for.
        needs_labels: only for tasks with label words.
        takes_memory: it can start from keys and values as they are.
        takes_weights: and from their weights, which are then trained further.
        estimated: values whose gradient is an estimate, since what they decide has none.
        sharing: what several tasks can share; None when each task's prompt stands alone.
        refs: its options that name stored prompts.
        peft: what peft has for it; None where its prompts leave as plain vectors, or as keys and values.
        gates: what the gates leave open, from the tensors that are kept; None where there are none.
        pruned: the method of what is left of such a prompt when parts of it are dropped; None where none can be.
    """

    title: str
    source: str
    options: type[Config]
    places: tuple[Place, ...]
    learning_rate: dict[Place, float]
    build: Callable[[Request], Built]
    formula: str
    variants: Mapping[str, str] = field(default_factory=dict)
    letters: Mapping[str, str] = field(default_factory=dict)
    needs_labels: bool = False
    takes_memory: bool = False
    takes_weights: bool = False
    estimated: tuple[str, ...] = ()
    sharing: Sharing | None = None
    rated_length: int | None = None
    refs: tuple[str, ...] = ()
    peft: PeftType | None = None
    gates: Callable[[Mapping[str, Tensor]], dict[str, Any]] | None = None
    pruned: str | None = None

    @property
    def has_layer(self) -> bool:
        """Whether it enters at a layer of its choice, instead of at the first."""
        return "layer" in self.options.model_fields

    def formula_for(self, options: Any) -> str:
        """How many values are trained with these options."""
        for case, formula in self.variants.items():
            name, _, value = case.partition("=")
            if str(getattr(options, name)).lower() == value:
                return formula
        return self.formula

    @property
    def formula_text(self) -> str:
        """The formula with its variants, and what its own letters stand for."""
        shown = "; ".join([self.formula, *(f"{case}: {formula}" for case, formula in self.variants.items())])
        letters = ", ".join(f"{letter} {name}" for letter, name in self.letters.items())
        return f"{shown} ({letters})" if letters else shown

    def share(self, length: int) -> float:
        """How much of its learning rate a prompt of this length takes."""
        return min(1.0, self.rated_length / max(1, length)) if self.rated_length else 1.0

    def rate(self, place: Place, length: int) -> float:
        """The learning rate where none is given."""
        return self.learning_rate[place] * self.share(length)
