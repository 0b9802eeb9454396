"""Requests and replies of the API: every list and text of a request has a limit, replies have exact types."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, JsonValue

from overture.core.records.base import Record
from overture.core.records.serving import Usage
from overture.core.records.shares import Doubt
from overture.server.answers import Answer
from overture.server.security import MAX_UPLOAD_BYTES

_MAX_TEXT = 200_000
_MAX_DEPTH = 32


def plain(value: Any, depth: int = 0) -> Any:
    """The value, if it can travel as JSON in UTF-8."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"must not be nested deeper than {_MAX_DEPTH}")
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("must not hold half a character (a lone surrogate)")
    elif isinstance(value, dict):
        for key, inner in value.items():
            plain(key, depth + 1)
            plain(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            plain(inner, depth + 1)
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError("must be a finite number")
    elif isinstance(value, int) and abs(value) > 1 << 63:
        raise ValueError("must be a number of at most 64 bits")
    return value


Text = Annotated[str, Field(max_length=_MAX_TEXT), AfterValidator(plain)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(plain)]
Fields = Annotated[dict[str, JsonValue], Field(min_length=1, max_length=64), AfterValidator(plain)]
Stop = Annotated[list[Annotated[Text, Field(min_length=1, max_length=200)]], Field(max_length=8)]


class Body(Record):
    """A request; a field that is not of its schema is an error."""

    # FastAPI quiets a warning of pydantic about its fields only while it makes a route.
    model_config = ConfigDict(defer_build=False)


class PredictRequest(Doubt, Body):
    """Rows, and the prompts that are asked about each of them."""

    prompt: Name | Annotated[list[Name], Field(min_length=1, max_length=64)] = Field(
        description="name, name@version or name@alias; several prompts on the same rows as a list"
    )
    inputs: list[Text | Fields] = Field(
        min_length=1, max_length=256, description="texts, or objects with the template's fields"
    )
    top: int | None = Field(None, ge=1, le=10_000, description="show so many of the likeliest labels; all if left out")
    calibrated: bool = Field(False, description="divide label scores by those of rows without content")


class Predicted(Record):
    """The answers about one row."""

    answers: dict[str, Answer] = Field(description="by prompt, pinned as name@version")


class PredictReply(Record):
    """Answers in the order of the inputs."""

    results: list[Predicted] = Field(description="one for each input")
    usage: Usage = Field(description="tokens of all inputs together")


# -- System One


class Question(Body):
    """A question about the state; it names a stored prompt, or is named like one."""

    type: Literal["choice", "score", "noul"] = Field(description="one of several, a step of a scale, or yes and no")
    prompt: Name | None = Field(
        None,
        description="the prompt that answers it; the question's own name if left out; the model alone by its name, or "
        "where no prompt is called like a question with instructions, if it is served",
    )
    instructions: Text | Fields | None = Field(
        None, description="for the model alone; a prompt was tuned on its own template"
    )
    criteria: (
        Annotated[dict[Name, JsonValue], AfterValidator(plain)] | Annotated[list[Name], Field(max_length=256)] | None
    ) = Field(None, description="labels of the prompt, for a check; without a prompt those that the model chooses from")


class SystemOneRequest(Body):
    """Typed questions about one state."""

    model: Name | None = Field(None, description="accepted; each question names its prompt")
    state: Text | Fields = Field(description="a text, or the fields of the prompts' templates")
    questions: dict[Name, Question] = Field(min_length=1, max_length=64, description="by name")


class ChoiceDecision(Record):
    """One of several."""

    type: Literal["choice"] = "choice"
    choice: str
    confidence: float
    probabilities: dict[str, float]


class ScoreDecision(Record):
    """A place on a scale: the mean index of its steps."""

    type: Literal["score"] = "score"
    score: float
    legend: dict[str, str] = Field(description="index -> step")
    probabilities: dict[str, float] = Field(description="index -> probability")
    confidence: float


class NoulDecision(Record):
    """The probability of yes."""

    type: Literal["noul"] = "noul"
    noul: float


class SystemOneUsage(Record):
    """Tokens."""

    input_tokens: int
    output_tokens: int


class SystemOneReply(Record):
    """An answer for each question."""

    model: str = Field(description="the prompts that answered, pinned")
    answers: dict[str, Annotated[ChoiceDecision | ScoreDecision | NoulDecision, Field(discriminator="type")]]
    usage: SystemOneUsage


# -- prompts


class PromptFacts(Record):
    """Facts about a stored prompt."""

    kind: str = Field(description="kind of its task")
    fields: list[str] = Field(description="fields of its template")
    labels: list[str] = Field(description="its labels; none of free text")
    method: str = Field(description="how its values are parameterised")
    place: str = Field(description="where it enters the model")
    length: int = Field(description="in tokens")
    metric: str | None = Field(None, description="the task's metric")
    score: float | None = Field(None, description="its value on test rows, else on validation rows")
    interval: tuple[float, float] | None = Field(None, description="its interval")
    n: int | None = Field(None, description="rows behind the score")
    sha256: str = Field(description="of its values")
    aliases: list[str] = Field([], description="names of this version")
    problem: str | None = Field(None, description="why it is not served")


class ModelCard(Record):
    """A prompt as a model, or the model itself."""

    id: str = Field(description="the name to send")
    object: Literal["model"] = "model"
    created: int = Field(description="seconds since 1970")
    owned_by: str = "overture"
    root: str | None = Field(None, description="the frozen model")
    parent: str | None = Field(None, description="the frozen model")
    overture: PromptFacts | None = Field(None, description="of a prompt")


class ModelList(Record):
    """A page of models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
    has_more: bool
    first_id: str | None
    last_id: str | None


class PromptUpload(Body):
    """A prompt to keep as the next version of its name."""

    manifest: dict[str, JsonValue] = Field(description="the contents of its prompt.json")
    tensors: str = Field(
        "", max_length=MAX_UPLOAD_BYTES, description="its prompt.safetensors in base64; empty for words"
    )


class PromptKept(Record):
    """The version that was kept."""

    prompt: str = Field(description="name@version")
    sha256: str = Field(description="of its values")


class AliasRequest(Body):
    """A name for a version."""

    alias: Annotated[str, Field(max_length=32)] = Field(description="such as prod")
    version: int | None = Field(None, ge=1, le=10**9 - 1, description="the latest if left out")


class AliasReply(Record):
    """The version that an alias now stands for."""

    alias: str = Field(description="name@alias")
    prompt: str = Field(description="name@version")


class Removed(Record):
    """The versions that were removed."""

    removed: list[str] = Field(description="name@version")


class Drift(Record):
    """Whether a prompt fits the model that is loaded."""

    prompt: str = Field(description="name@version")
    fits: bool = Field(description="whether it is served")
    problem: str | None = Field(None, description="why not")


class TokenizeRequest(Body):
    """A text."""

    text: Text = Field(description="the text")


class TokenizeReply(Record):
    """Its tokens."""

    tokens: list[int]
    count: int
