"""The facts of a prompt method, without its maths; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

from overture.core.config import Config
from overture.core.injection import Place


@dataclass(frozen=True, slots=True)
class Sharing:
    """How several tasks, trained together, share a method's values.

    Args:
        names: the values that all tasks have in common.
        distil: weight of the loss that distils single-task prompts; 0 when the method's authors have no teachers.
        has_start: the shared values make a prompt from which another task can start; the method's file gives it as
            `shared_start(module)`.
    """

    names: tuple[str, ...]
    distil: float = 0.0
    has_start: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """A prompt method. Its file, of the same name, has `build(Request)`, which makes the module.

    Args:
        name: of the method and of its file.
        title: in one line, what is trained.
        source: author and year.
        options: class of its options.
        places: where it can enter.
        learning_rate: the default at each place, as measured (see docs/log.md).
        rated_length: prompts longer than this take less of that rate, in proportion; None where all lengths take it.
        formula: how many values are trained: P prompt length, D model width, N layers, H key/value heads, K head width,
            C labels, d width of the tower of texts, and further letters.
        variants: the formula where an option has a value, by ``option=value``.
        letters: the option, or property of the options, that each further letter of the formula stands for.
        needs_labels: only for tasks with label words.
        in_captions: its vectors stand among the labels' words, in the tower of texts of a model that compares images
            with texts; its place is that of the vectors beside the words.
        takes_memory: it can start from keys and values as they are.
        takes_weights: it can also start from their weights, which are then trained further.
        estimated: values whose gradient is an estimate, since they make a discrete choice.
        sharing: the values that several tasks can share; None when each task's prompt stands alone.
        refs: names of its options that hold names of stored prompts.
        peft: the type of adapter that peft has for it, whose own config keys its file gives as `peft_keys(options)`;
            empty where its prompts are exported as plain vectors, or as keys and values.
        has_gates: its file has `open_gates(tensors)`, which counts the layers and columns that gates leave open.
        is_cache: finished, before a text, it is keys and values and nothing else, which other engines can read too.
        pruned: the method of such a prompt after pruning; None where it cannot be pruned.
        module: the module that has its maths; this package's file of its name when empty.
        plugin: the file or the installed package that brings it; empty for Overture's own.
    """

    name: str
    title: str
    source: str
    options: type[Config]
    places: tuple[Place, ...]
    learning_rate: dict[Place, float]
    formula: str
    variants: Mapping[str, str] = field(default_factory=dict)
    letters: Mapping[str, str] = field(default_factory=dict)
    needs_labels: bool = False
    in_captions: bool = False
    takes_memory: bool = False
    takes_weights: bool = False
    estimated: tuple[str, ...] = ()
    sharing: Sharing | None = None
    rated_length: int | None = None
    refs: tuple[str, ...] = ()
    peft: str = ""
    has_gates: bool = False
    is_cache: bool = False
    pruned: str | None = None
    module: str = ""
    plugin: str = ""

    @property
    def maths(self) -> ModuleType:
        """The method's file; it imports torch, so it is imported on first use."""
        return import_module(self.module or f"overture.prompt.{self.name}")

    @property
    def has_layer(self) -> bool:
        """Whether it enters at a layer of its choice, instead of at the first."""
        return "layer" in self.options.model_fields

    @property
    def formula_text(self) -> str:
        """The formula with its variants, and what its own letters stand for."""
        formulas = "; ".join([self.formula, *(f"{case}: {formula}" for case, formula in self.variants.items())])
        letters = ", ".join(f"{letter} {name}" for letter, name in self.letters.items())
        return f"{formulas} ({letters})" if letters else formulas

    def share(self, length: int) -> float:
        """The factor on the learning rate for a prompt of this length."""
        return min(1.0, self.rated_length / max(1, length)) if self.rated_length else 1.0

    def rate(self, place: Place, length: int) -> float:
        """The learning rate where none is given."""
        return self.learning_rate[place] * self.share(length)
