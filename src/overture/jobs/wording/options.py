"""Options of the search for a prompt of words; imports no torch."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from overture.core.config import Config
from overture.core.errors import ConfigError
from overture.engine.options import DType
from overture.hard.proposers.registry import DEFAULTS, check_source
from overture.jobs.run.request import check_no_adapter
from overture.jobs.search.options import SearchRequest
from overture.store.manifest import Manifest

Source = Annotated[str, StringConstraints(min_length=1)]
ExampleSets = Annotated[
    int, Field(ge=0, le=2000, description="Sets of examples that race, over all rounds; 0 for none.")
]
Scaled = Annotated[
    bool,
    Field(
        description="Judge each candidate with a temperature and a bias for each label that fit its label scores, and "
        "keep them with the words."
    ),
]
FirstRows = Annotated[int, Field(ge=2, description="Rows of a race's first rung.")]


class HardConfig(Config):
    """Sources and budget of `overture search --form hard`."""

    sources: tuple[Source, ...] = Field(
        (),
        description="Proposers: grammar, words, examples, corpus, own, edits, gradient, pruning, file:PATH, "
        "model:NAME, url:http://HOST/v1, reflect:model:NAME or reflect:url:http://HOST/v1 (gepa, an extra to install); "
        "if not given, all that need no other model.",
    )
    text: str = Field("", description="An instruction of your own: it races with the others, and is compared with.")
    room: int = Field(16, ge=1, le=512, description="Most tokens of an instruction.")
    wordings: int = Field(64, ge=2, le=10_000, description="Instructions that race, over all rounds.")
    structures: int = Field(24, ge=2, le=2000, description="Structures and choices of label words that race.")
    example_sets: ExampleSets = 24
    rounds: int = Field(4, ge=1, le=50, description="Rounds of proposals for examples and for instructions.")
    first_rows: FirstRows = 8
    race_rows: int = Field(128, ge=2, description="Rows of a race's last rung, at most all validation rows.")
    scaled: Scaled = True
    max_tokens: float | None = Field(
        None, gt=0, description="Budget in live tokens of the scorer; a notice says what was left out when it is spent."
    )
    minutes: float | None = Field(None, gt=0, description="Budget in minutes, at the speed that is measured first.")
    shuffle_labels: bool = Field(
        False, description="Deal labels to all rows by chance first: a control, in which the search must claim nothing."
    )
    model: str = Field("default", description="Name of the model at url:.")
    timeout_s: float = Field(60.0, gt=0, description="Time limit of one request to url:.")

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.max_tokens is not None and self.minutes is not None:
            raise ValueError("one budget at most, not max_tokens and minutes")
        return self

    @property
    def chosen(self) -> tuple[str, ...]:
        """The proposers that are used."""
        return self.sources or DEFAULTS


class HardRequest(SearchRequest):
    """A request with what a search for words may do: the section `hard` of a task file."""

    hard: HardConfig = Field(HardConfig(), description="What `overture search --form hard` proposes and may spend.")


class ExplainConfig(Config):
    """How much `overture explain` looks at."""

    rows: int = Field(200, ge=4, description="Rows that are looked at; a sample by seed where there are more.")
    texts: int = Field(4, ge=0, le=50, description="Rows that are shown word by word.")
    nodes: int = Field(16, ge=2, le=256, description="Nodes of the integral in integrated gradients.")
    dtype: DType = Field(
        "auto",
        description="The model's precision here, whatever the prompt was tuned in: float32 on a CPU, bfloat16 on a GPU "
        "if auto. In bfloat16 integrated gradients miss their sum by about 2%.",
    )
    seed: int = Field(0, ge=0, description="Seed of samples and random orders.")


class TranslateConfig(Config):
    """How `overture translate` looks for words."""

    sources: tuple[Source, ...] = Field(
        (),
        description="Proposers, as in `overture search --form hard`; corpus, own, edits, gradient, examples and words "
        "if not given.",
    )
    room: int = Field(16, ge=1, le=512, description="Most tokens of the words, examples aside.")
    wordings: int = Field(48, ge=2, le=10_000, description="Texts that race, over all rounds.")
    example_sets: ExampleSets = 36
    structures: int = Field(8, ge=0, le=2000, description="Choices of label words that race; 0 for the task's own.")
    rounds: int = Field(3, ge=1, le=50, description="Rounds of proposals for instructions and for examples.")
    scaled: Scaled = True
    rows: int = Field(
        64,
        ge=4,
        description="Rows that choose, validation rows where there are any, and as many training rows for proposals; "
        "their labels are not looked at.",
    )
    max_tokens: float = Field(
        150_000, gt=0, description="Live tokens after which fewer proposals race; 150,000 are about five minutes."
    )
    first_rows: FirstRows = 8
    measured_rows: int = Field(400, ge=4, description="Test rows at most that the result is measured on.")
    baselines: bool = Field(
        False, description="Also measure texts that GCG and PEZ find by the same divergence, as baselines."
    )
    second_model: str = Field("", description="Another model, on which the same words are measured too.")
    seed: int = Field(0, ge=0, description="Seed of rows and proposals.")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The proposers that are used."""
        return self.sources or ("corpus", "own", "edits", "gradient", "examples", "words")


def check_compared(kind: str) -> None:
    """Refuse a kind of task whose answers are not labels.

    Raises:
        ConfigError: of any other kind than classification.
    """
    if kind != "classification":
        raise ConfigError(
            "an explanation compares the likelihood of labels", where="kind", got=kind, wanted="classification"
        )


def check_explained(manifest: Manifest, kind: str) -> None:
    """Refuse what cannot be explained, before a model is loaded: other answers than labels, and a linear probe.

    Raises:
        ConfigError: the answers are no labels, or there are label vectors alone, without a prompt beside them.
    """
    check_compared(kind)
    if manifest.is_probe:
        raise ConfigError(
            "this is a linear probe, so there is no prompt to explain",
            where=manifest.ref,
            got="label vectors alone; tune keeps them where it cannot show that a prompt is better",
            fix=f"tune with --set keep=prompt to keep the prompt; overture errors {manifest.ref} shows wrong answers",
        )


def check_request(config: HardRequest) -> None:
    """Refuse what no search for words can do, before a model is loaded.

    Raises:
        ConfigError: an unknown proposer, an adapter, rows of images or sounds, or a task whose rows hold no field with
            the right answer.
    """
    check_no_adapter(config, "a search for words")
    if config.task.media:
        raise ConfigError(
            "a search for words is for rows of texts",
            where="search.form",
            got=f"rows with an {config.task.input}",
            wanted="input: text",
            fix="leave it out: overture search chooses among soft prompts; words of your own for Whisper stand in the "
            "template, behind <|startofprev|>",
        )
    for source in config.hard.chosen:
        check_source(source)
    if not config.task.target_fields:
        raise ConfigError(
            "a search for words chooses by the likelihood of each row's one answer",
            where="kind",
            got=config.task.kind,
            wanted="a task whose rows have a field with a label or an answer",
            fix="tune a soft prompt with overture tune",
        )
