"""The task file: its data, its template, its kind, and its metric."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, WithJsonSchema, field_validator, model_validator

from overture.core.config import Config, did_you_mean, overridden, validated
from overture.core.decoding import GREEDY, Decoding
from overture.core.errors import ConfigError
from overture.core.media import Modality
from overture.core.rows import Reading
from overture.data.formats.options import FileOptions, NonEmpty
from overture.data.kind import TaskKind
from overture.data.kinds.registry import KINDS, kind_named
from overture.data.task_file import PATHS, task_file_values
from overture.data.template import Parsed, column_of, num_masks_in, num_vectors_in, parse, slots_in
from overture.data.values import label_text, normal_spelling


class Message(Config):
    """One message of a chat template."""

    role: Literal["system", "user", "assistant"] = Field(description="Who speaks.")
    content: str = Field(description="What is said; {field} stands for a field's value.")


class RowSources(Config):
    """Where the rows of a task lie."""

    train: Path | None = Field(
        None,
        description="Training rows: a file (JSON lines, JSON, CSV, TSV, Parquet, CoNLL, fastText, .xlsx), a folder of "
        "texts by label or of brat, or a pattern for several files, such as train-*.parquet.",
    )
    validation: Path | None = Field(None, description="Rows for choosing; drawn from the training rows if not given.")
    test: Path | None = Field(None, description="Rows for the final score; drawn from the training rows if not given.")
    path: Path | None = Field(None, description="One file that is split into training, validation and test rows.")
    more: Path | None = Field(
        None,
        description="Further rows, all for training, such as a file of overture suggest; those without a label and "
        "those that chance chose (chosen_by: random), which measure, are left out.",
    )
    dataset: NonEmpty | None = Field(None, description="A data set of the Hugging Face Hub, read with `datasets`.")
    subset: NonEmpty | None = Field(None, description="The data set's configuration, such as sst2 of glue.")


class DataConfig(FileOptions, RowSources):
    """The source of the rows, their form, and how missing splits are drawn."""

    root: Path | None = Field(
        None,
        description="The folder that names of image and sound files in the rows start at and may not leave; the data "
        "file's folder if not given.",
    )
    drop: list[Literal["empty", "unlabelled", "repeats"]] = Field(
        [],
        description="Rows to leave out, counted: empty (no text), unlabelled (no label or answer), repeats of others.",
    )
    normalise_labels: bool = Field(
        False, description="Labels that differ in case or white space from those of the task file are the same."
    )
    seed: int = Field(0, description="Seed of the drawing of splits and samples.")
    validation_share: float = Field(0.2, ge=0, lt=1, description="Share of the rows drawn as validation rows.")
    test_share: float = Field(0.2, ge=0, lt=1, description="Share of the rows drawn as test rows.")
    train_rows: int | None = Field(None, ge=1, description="Take a sample of this many training rows.")
    validation_rows: int | None = Field(None, ge=1, description="Take a sample of this many validation rows.")
    test_rows: int | None = Field(None, ge=1, description="Take a sample of this many test rows.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [name for name in ("train", "path", "dataset") if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError(
                f"exactly one of train, path and dataset must be given, not {' and '.join(sources) or 'none'}"
            )
        if self.train is None and (self.validation is not None or self.test is not None):
            raise ValueError(f"validation and test go with train, not with {sources[0]}")
        if self.subset is not None and self.dataset is None:
            raise ValueError("subset goes with dataset")
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave no training rows")
        return self


def _text_or_list(value: Any) -> str:
    return "<list>" if isinstance(value, list | tuple) else "<text>"


Words = Annotated[
    Annotated[NonEmpty, Tag("<text>")] | Annotated[list[NonEmpty], Field(min_length=1), Tag("<list>")],
    Discriminator(_text_or_list),
]
_TEXTS_SCHEMA = {"type": "array", "items": {"type": "string"}}
_WORDS_SCHEMA = [{"type": "string"}, _TEXTS_SCHEMA]
_SPELLED_SCHEMA = {"words": {"anyOf": _WORDS_SCHEMA}, "also": _TEXTS_SCHEMA}
_LABEL_SCHEMA = {
    "anyOf": [*_WORDS_SCHEMA, {"type": "object", "properties": _SPELLED_SCHEMA, "additionalProperties": False}]
}
TemplateText = Annotated[
    Annotated[NonEmpty, Tag("<text>")] | Annotated[list[Message], Field(min_length=1), Tag("<list>")],
    Discriminator(_text_or_list),
]


def _kind_of(input: str | None, answer_field: str | None) -> str:
    """The kind of a task file that names none."""
    if not answer_field:
        return "classification"
    return "transcription" if input == "audio" else "generation"


class Task(Config):
    """A task; one YAML file."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="Names the task's runs and prompts: up to 64 lower-case letters, digits, - and _, with a letter or "
        "digit first.",
    )
    backbone: NonEmpty = Field("smollm2", description="The frozen model: a known name, a Hub id, a folder or a file.")
    data: DataConfig = Field(description="Where the rows come from.")
    input: Literal["text", "image", "audio"] = Field(
        "text", description="What the model reads of a row: its texts alone, or an image or a sound beside them."
    )
    input_field: NonEmpty | None = Field(
        None, description="The field that holds the image or the sound; image or audio, as the input, if not given."
    )
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] | None = Field(
        None,
        description="The language of the sounds, as the model's tokens name it: en, de. The model's default if not "
        "given: English.",
    )
    translate: bool = Field(False, description="Sounds are translated into English instead of written down.")
    template: TemplateText = Field(
        description="How a row is shown: a text, or chat messages, with {field} for a field's value and, for prompts "
        "at place slots, {prompt:5} where five prompt vectors stand. For images and sounds their field alone if not "
        "given; models without words have no other."
    )
    label_field: NonEmpty = Field("label", description="The field that holds a row's label.")
    labels: dict[str, Annotated[Words, WithJsonSchema(_LABEL_SCHEMA)]] | None = Field(
        None,
        description='Label to its word or words, each with its leading space, such as " positive"; or to '
        "{words, also}, where also lists other spellings of the label in the data.",
    )
    spellings: dict[str, list[str]] = Field({}, description="Other spellings of labels in the data, by label.")
    read: Reading | None = Field(
        None,
        description="Where an encoder's label is read: at the template's {mask}, at the first token, or as the mean of "
        "all; the mask if there is one, else the first token.",
    )
    answer_field: NonEmpty | None = Field(None, description="The field that holds a free-text answer.")
    kind: str = Field(
        default_factory=lambda values: _kind_of(values.get("input"), values.get("answer_field")),
        description="What a right answer is: classification, multilabel, regression, choice, tagging, qa, generation, "
        "transcription, chat. Labels mean classification, an answer_field generation, of sounds transcription, if not "
        "given.",
    )
    options: dict[str, Any] = Field({}, description="The kind's own options, such as options.no_answer.")
    metric: str = Field(
        default_factory=lambda values: KINDS[values["kind"]].metrics[0] if values.get("kind") in KINDS else "",
        description="What is reported first and chosen by: accuracy or macro_f1 for labels; exact_match, exact_text, "
        "bleu, chrf or rouge_l for answers; the kind's first if not given.",
    )
    decoding: Decoding = Field(GREEDY, description="How answers are written: greedily, by beam search, or by chance.")
    max_new_tokens: int = Field(32, ge=1, description="Upper limit on the tokens of a generated answer.")
    stop: list[NonEmpty] = Field(
        default_factory=lambda values: list(KINDS[values["kind"]].stop) if values.get("kind") in KINDS else [],
        description="Texts at which a generated answer ends; a line's end if not given, in chats nothing.",
    )
    too_long: Literal["error", "trim"] = Field(
        "error", description="Rows over the limit are an error, or have their longest fields shortened from the end."
    )
    max_length: int | None = Field(
        None, ge=1, description="Upper limit on a row's tokens; the model's context if not given."
    )

    @model_validator(mode="before")
    @classmethod
    def _template_of_media(cls, values: Any) -> Any:
        """An image or a sound needs no words around it."""
        if not isinstance(values, dict) or values.get("input") not in ("image", "audio"):
            return values
        return {"template": f"{{{values.get('input_field') or values['input']}}}", **values}

    @model_validator(mode="before")
    @classmethod
    def _spellings_apart(cls, values: Any) -> Any:
        """Write ``labels: {a: {words: " A", also: [A]}}`` as labels and their spellings."""
        labels = values.get("labels") if isinstance(values, dict) else None
        if not isinstance(labels, dict) or not any(isinstance(entry, dict) for entry in labels.values()):
            return values
        words: dict[Any, Any] = {}
        spellings = dict(values.get("spellings") or {})
        for label, entry in labels.items():
            if not isinstance(entry, dict):
                words[label] = entry
                continue
            if unknown := entry.keys() - {"words", "also"}:
                raise ValueError(f"labels.{label} has the unknown key {unknown.pop()!r}; known: words, also")
            words[label] = entry.get("words", f" {label_text(label)}")
            if entry.get("also"):
                spellings[label_text(label) or label] = entry["also"]
        return {**values, "labels": words, "spellings": spellings}

    @field_validator("spellings", mode="before")
    @classmethod
    def _spellings_as_text(cls, spellings: Any) -> Any:
        # Data files have numbers and truth values for labels too, and YAML reads them as such.
        if not isinstance(spellings, dict) or not all(isinstance(texts, list) for texts in spellings.values()):
            return spellings
        return {
            label_text(label) or label: [label_text(text) or text for text in texts]
            for label, texts in spellings.items()
        }

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_as_text(cls, labels: Any) -> Any:
        if not isinstance(labels, dict):
            return labels
        # YAML reads unquoted 0 or true as a number or truth value; data files do the same with their labels.
        words_of_label = {label_text(label) or label: words for label, words in labels.items()}
        if len(words_of_label) < len(labels):
            raise ValueError("two labels are the same once written as text")
        return words_of_label

    @field_validator("template")
    @classmethod
    def _template_parses(cls, template: str | list[Message]) -> str | list[Message]:
        pieces = _pieces_of(template)
        if not slots_in(pieces):
            raise ValueError("the template shows no field; write {text} where the row's text goes")
        if num_masks_in(pieces) > 1:
            raise ValueError("the template has several masks; the label's word stands at one")
        if not isinstance(template, str) and template[-1].role != "user":
            raise ValueError("the last message must be the user's; the answer is the assistant's")
        return template

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        spec = self.spec
        try:
            validated(spec.options, self.options, "options")
        except ConfigError as error:
            problems = [replace(problem, where=f"options.{problem.where}") for problem in error.problems]
            raise ConfigError("the kind's options are wrong", where="options", problems=problems) from None
        spec.check(self)
        _ = self._spelled
        self._check_media()
        if self.metric not in spec.metrics:
            raise ConfigError(
                f"no metric of a task of kind {self.kind}",
                where="metric",
                got=self.metric,
                wanted=f"known: {', '.join(spec.metrics)}",
                fix=did_you_mean(self.metric, spec.metrics),
            )
        shown_targets = set(self.target_fields) & set(self.columns)
        if shown_targets:
            raise ConfigError(
                f"the template shows {shown_targets.pop()!r}, which is what the model must find", where="template"
            )
        return self

    def _check_media(self) -> None:
        """The field of an image or a sound is one of the template's, once; nothing stands for a row without it.

        Raises:
            ConfigError: it is not, or the task asks for calibration.
        """
        if self.input_field and self.input == "text":
            raise ConfigError(
                "input_field names an image or a sound, and the input is text",
                where="input_field",
                got=self.input_field,
                fix="set input: image or input: audio",
            )
        if self.input != "audio" and (self.language or self.translate):
            raise ConfigError(
                "language and translate are for models that write down sounds",
                where="language" if self.language else "translate",
                wanted="input: audio",
                fix="leave it out",
            )
        slots = [slot.name for slot in slots_in(_pieces_of(self.template))]
        for name in self.media:
            if slots.count(name) != 1:
                raise ConfigError(
                    f"the template shows the {self.input} {slots.count(name)} times",
                    where="template",
                    got=f"{{{name}}} {slots.count(name)} times",
                    wanted=f"{{{name}}} once",
                    fix="" if slots.count(name) else "set input_field if the field is called otherwise",
                )
        if self.media and self.is_calibrated:
            raise ConfigError(
                f"calibration needs a row without content, and there is no empty {self.input}",
                where="options.calibration",
                fix="leave it out",
            )

    @cached_property
    def media(self) -> dict[str, Modality]:
        """The fields that hold images or sounds, with what they hold."""
        return {} if self.input == "text" else {self.input_field or self.input: self.input}

    @property
    def has_shots(self) -> bool:
        """Whether rows can be shown as in-context examples; those with images and sounds cannot."""
        return self.spec.has_shots and not self.media

    @property
    def spec(self) -> TaskKind:
        """The record of functions of the task's kind."""
        return kind_named(self.kind)

    @cached_property
    def kind_options(self) -> Any:
        """The kind's own options."""
        return self.spec.options.model_validate(self.options)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields, and entries of lists, that the template shows; unique, in order."""
        return tuple(dict.fromkeys(slot.name for slot in slots_in(_pieces_of(self.template))))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The fields of a row that the template shows, whole or in part; unique, in order."""
        return tuple(dict.fromkeys(column_of(name)[0] for name in self.fields))

    @cached_property
    def num_slot_vectors(self) -> int:
        """How many prompt vectors the template holds in its own slots, such as {prompt:5}."""
        return num_vectors_in(_pieces_of(self.template))

    @cached_property
    def has_mask(self) -> bool:
        """Whether the template has a {mask}, at which an encoder predicts the label's word."""
        return num_masks_in(_pieces_of(self.template)) > 0

    @property
    def reading(self) -> Reading:
        """Where an encoder's label is read."""
        return self.read or ("mask" if self.has_mask else "first")

    @cached_property
    def words(self) -> dict[str, tuple[str, ...]]:
        """Each label's words; empty for free-text tasks."""
        return {
            label: (words,) if isinstance(words, str) else tuple(words) for label, words in (self.labels or {}).items()
        }

    def label_named(self, text: str) -> str | None:
        """The label of a spelling; None where there is none."""
        exact, by_normal = self._spelled
        return exact.get(text) or by_normal.get(normal_spelling(text))

    @cached_property
    def _spelled(self) -> tuple[dict[str, str], dict[str, str]]:
        """Labels by their exact spellings, and by normal ones if the task says that these are alike.

        Raises:
            ConfigError: a spelling is that of two labels, or of a label that there is not.
        """
        exact = {label: label for label in self.labels or {}}
        for label, spellings in self.spellings.items():
            if label not in (self.labels or {}):
                raise ConfigError(f"spellings names the label {label!r}, which labels has not", where="spellings")
            for spelling in spellings:
                if exact.setdefault(spelling, label) != label:
                    label_names = f"{exact[spelling]!r}, {label!r}"
                    raise ConfigError(f"the spelling {spelling!r} is of two labels: {label_names}", where="spellings")
        by_normal: dict[str, str] = {}
        for spelling, label in exact.items() if self.data.normalise_labels else ():
            if by_normal.setdefault(normal_spelling(spelling), label) != label:
                label_names = f"the labels {by_normal[normal_spelling(spelling)]!r} and {label!r}"
                raise ConfigError(
                    f"{label_names} differ in case or white space alone",
                    where="data.normalise_labels",
                    fix="make them one, or leave data.normalise_labels out",
                )
        return exact, by_normal

    @property
    def target_fields(self) -> tuple[str, ...]:
        """The fields that hold what the model must find."""
        return self.spec.target_fields(self)

    @classmethod
    def load(cls, path: str | Path, assignments: list[str] | None = None) -> Self:
        """Read a task file; data paths in it are relative to its folder.

        Args:
            path: the YAML file.
            assignments: ``key=value`` settings that win over the file; their paths are relative to the working folder.

        Raises:
            ConfigError: every mistake in the file or the settings.
        """
        path = Path(path)
        values = task_file_values(path)
        return validated(cls, overridden(values, assignments or []), str(path))

    @property
    def is_calibrated(self) -> bool:
        """Whether label scores are calibrated in predictions."""
        return getattr(self.kind_options, "calibration", "none") != "none"

    @property
    def is_scaled(self) -> bool:
        """Whether label scores have a temperature or biases in predictions."""
        return getattr(self.kind_options, "temperature", 1.0) != 1 or bool(
            getattr(self.kind_options, "label_bias", None)
        )

    def scaled(self, temperature: float, label_bias: Mapping[str, float]) -> Self:
        """The same task of labels with their scores divided by a temperature, and biases added, in predictions."""
        values = self.dump()
        options = {**values["options"], "temperature": temperature, "label_bias": dict(label_bias)}
        return validated(type(self), {**values, "options": options}, "options")

    def calibrated(self, is_calibrated: bool = True) -> Self:
        """The same task with label scores calibrated in predictions, or not.

        Raises:
            ConfigError: its kind has no such option.
        """
        if "calibration" not in self.spec.options.model_fields:
            kinds = [kind.name for kind in KINDS.values() if "calibration" in kind.options.model_fields]
            raise ConfigError(
                "calibration needs labels",
                where="options.calibration",
                got=f"a task of kind {self.kind}",
                wanted=", ".join(kinds),
            )
        values = self.dump()
        options = {**values["options"], "calibration": "contextual" if is_calibrated else "none"}
        return validated(type(self), {**values, "options": options}, "options.calibration")

    def dump(self) -> dict[str, Any]:
        """The task as plain values, for JSON; ``Task(**task.dump())`` gives it back."""
        return self.model_dump(mode="json")


def _pieces_of(template: str | list[Message]) -> list[Parsed]:
    """All pieces of a template, message after message."""
    texts = [template] if isinstance(template, str) else [message.content for message in template]
    return [piece for text in texts for piece in parse(text)]


def portable(task: Task) -> dict[str, Any]:
    """A task as a prompt records it: paths of the machine that made it do not travel."""
    values = task.dump()
    data = {key: Path(v).name if key in PATHS and v else v for key, v in values["data"].items()}
    return {**values, "data": data}
