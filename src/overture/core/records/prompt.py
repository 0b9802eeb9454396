"""A stored prompt: what its values were made with, where it comes from, how it scores."""

import hashlib
import json
from collections.abc import Iterator

from pydantic import Field

from overture.core.injection import Place
from overture.core.records.base import Options, Record, optional
from overture.core.records.concept import ConceptErrors
from overture.core.records.scores import Interval, SplitScores


class Shot(Record):
    """A row with its answer, shown in front of the input."""

    fields: dict[str, str] = Field(description="template field -> its text")
    answer: str = Field(description="the answer, as it stands behind the row")


class TextPrompt(Record):
    """A prompt of words: its text and the tokens that were scored."""

    before: str = Field("", description="the text in front of the input")
    after: str = Field("", description="the text between the input and the template's constant end")
    before_ids: list[int] = Field([], description="tokens of the text in front")
    after_ids: list[int] = Field([], description="tokens of the text behind the input")
    begins: bool = Field(False, description="whether the text in front holds what a sequence begins with")
    instruction: str = Field("", description="the text in front without its examples")
    shots: list[Shot] = Field([], description="rows with their answers in the text in front, in order")

    @property
    def ids(self) -> list[int]:
        """All tokens, those in front first."""
        return [*self.before_ids, *self.after_ids]

    @property
    def place(self) -> Place:
        """Where the text stands."""
        if self.before_ids and self.after_ids:
            return "around"
        return "before" if self.before_ids else "after"

    @property
    def sha256(self) -> str:
        """Fingerprint of text and tokens."""
        return hashlib.sha256(json.dumps(self.dump(), sort_keys=True).encode()).hexdigest()


class Concept(Record):
    """A concept: vectors that stand in captions of a model that draws, and no prompt of rows."""

    token: str = Field(description="the word that stands for the vectors in a caption", min_length=1)
    word: str | None = optional("the word that they began at; none of an imported one")
    captions: list[str] | None = optional("the captions that it was learnt in")
    errors: ConceptErrors | None = optional("what the vectors are worth; none of an imported one")


class MadeWith(Record):
    """The resolved options that made a prompt; none of an imported one."""

    prompt: Options | None = optional("the prompt's options")
    train: Options | None = optional("how it was trained")
    adapter: Options | None = optional("the adapter that was trained with it")
    cache_dtype: str | None = optional("precision of the cached texts, where it was not the model's")
    cartridge: Options | None = optional("how a text was distilled into it")
    concept: Options | None = optional("how images became it")
    plugin: str | None = optional("the plug-in that brings the method; none for Overture's own")


class GateCount(Record):
    """How many gates of one sort stay open."""

    open: int = Field(description="open gates", ge=0)
    of: int = Field(description="all gates", ge=0)


class OpenGates(Record):
    """The layers and columns that a gated prompt leaves open."""

    layers: GateCount = Field(description="layers")
    columns: GateCount = Field(description="columns of keys and values, over all layers")
    above: float = Field(description="the value above which a gate counts as open")


class Lineage(Record):
    """Where a prompt comes from; each job fills in its own fields."""

    imported_from: str | None = optional("the program that wrote it")
    peft_type: str | None = optional("peft's name of its method")
    peft_version: str | None = optional("the version of peft that wrote it")
    base_model: str | None = optional("the model that peft names")
    task_id: int | None = optional("which of a multi-task prompt's tasks it is")
    pruned_from: str | None = optional("the whole prompt")
    recycled_from: str | None = optional("the prompt of another model")
    recycled_backbone: str | None = optional("that model")
    common_tokens: int | None = optional("tokens that both vocabularies have")
    held_out_cosine: float | None = optional("cosine of mapped and true vectors of tokens that the map has not seen")
    meta: str | None = optional("the meta-learning algorithm")
    multi: str | None = optional("the name of its multi-task training")
    tasks: list[str] | None = optional("the tasks that it was learnt from")
    visits: int | None = optional("how often meta-learning visited a task")
    visits_asked: int | None = optional("how often it should have")
    inner: int | None = optional("optimiser steps of a visit")
    search: str | None = optional("how a text prompt was found")
    translated_from: str | None = optional("the prompt whose answers a text was chosen to repeat")
    text: str | None = optional("the text that it holds")
    text_tokens: int | None = optional("length of that text in tokens")
    epoch: int | None = optional("the epoch of its values, from 0")
    ways: dict[str, dict[str, int | float] | None] | None = optional("way to know the text -> what was measured of it")
    run: str | None = optional("the run that made it")
    seed: int | None = optional("the seed of its training")
    train_rows: int | list[int] | None = optional("training rows, of each task where there are several")
    distilled: dict[str, int | float] | None = optional("weights of what it learnt from its teachers")
    gates: OpenGates | None = optional("what its gates leave open")


class PromptScores(Record):
    """Scores of a prompt, and of its model without one, by split."""

    validation: SplitScores | None = optional("on validation rows")
    test: SplitScores | None = optional("on test rows")
    no_prompt: dict[str, SplitScores] | None = optional("split -> scores of the model without a prompt")

    def named(self) -> Iterator[tuple[str, float, Interval | None]]:
        """Each score by its dotted name, with its interval where it has one."""
        splits = {"validation": self.validation, "test": self.test}
        splits |= {f"no_prompt.{name}": scores for name, scores in (self.no_prompt or {}).items()}
        for split, scores in splits.items():
            if scores:
                yield from ((f"{split}.{name}", score.value, score) for name, score in scores.scores.items())
                if scores.loss is not None:
                    yield f"{split}.loss", scores.loss, None
