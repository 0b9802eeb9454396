"""What clients send and get: requests with a limit on every list and text, replies with exact types."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, JsonValue

from overture.core.records.base import Record
from overture.core.records.serving import Usage
from overture.server.security import MAX_UPLOAD_BYTES

_MAX_TEXT = 200_000
_MAX_DEPTH = 32


def _plain(value: Any, depth: int = 0) -> Any:
    """The value, if it can travel as JSON in UTF-8."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"must not be nested deeper than {_MAX_DEPTH}")
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("must not hold half a character (a lone surrogate)")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _plain(key, depth + 1)
            _plain(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _plain(inner, depth + 1)
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError("must be a finite number")
    elif isinstance(value, int) and abs(value) > 1 << 63:
        raise ValueError("must be a number of at most 64 bits")
    return value


Text = Annotated[str, Field(max_length=_MAX_TEXT), AfterValidator(_plain)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
Fields = Annotated[dict[str, JsonValue], Field(min_length=1, max_length=64), AfterValidator(_plain)]
Stop = Annotated[list[Annotated[Text, Field(min_length=1, max_length=200)]], Field(max_length=8)]


class Body(Record):
    """A request; a field that is not of its schema is an error."""


# -- typed answers


class Choice(Record):
    """One label, or one of a row's own choices."""

    type: Literal["choice"] = "choice"
    choice: str = Field(description="what was chosen")
    confidence: float | None = Field(None, description="its probability")
    probabilities: dict[str, float] | None = Field(None, description="of all, or of the likeliest `top`")


class LabelShare(Record):
    """A label that may apply beside others."""

    label: str = Field(description="its name")
    probability: float | None = Field(None, description="that it applies")
    chosen: bool = Field(description="whether it applies")


class Labels(Record):
    """All labels that apply."""

    type: Literal["labels"] = "labels"
    labels: list[LabelShare] = Field(description="the chosen ones first; the others where they have probabilities")


class Score(Record):
    """A number."""

    type: Literal["score"] = "score"
    score: float | None = Field(description="the value")
    probabilities: dict[str, float] | None = Field(None, description="of the steps between which it lies")


class Span(Record):
    """A labelled part of a text."""

    label: str = Field(description="what it is")
    start: int = Field(description="first character, from 0; first word where the row holds words")
    end: int = Field(description="behind the last character or word")
    text: str | None = Field(None, description="the part itself; none where the template shows several fields")


class Tags(Record):
    """Labelled parts of a text."""

    type: Literal["tags"] = "tags"
    text: str = Field(description="the spans in words")
    unit: Literal["characters", "words"] = Field("characters", description="what start and end count")
    spans: list[Span] = Field(description="in order")


class TextAnswer(Record):
    """A text."""

    type: Literal["text"] = "text"
    text: str = Field(description="the answer")


Answer = Annotated[Choice | Labels | Score | Tags | TextAnswer, Field(discriminator="type")]


def typed_answer(shown: dict[str, Any], top: int | None = None, value: JsonValue = None) -> Answer:
    """An answer as `predict` shows it, with its type.

    Args:
        shown: by `TaskKind.shown`: the keys tell what it is.
        top: keep so many of the likeliest labels.
        value: the field that spans lie in, where there is only one.
    """
    shares = shown.get("probabilities")
    likeliest = sorted(shares, key=lambda label: -shares[label])[:top] if shares else []
    kept = {label: round(shares[label], 4) for label in likeliest} if shares else None
    confidence = None if shown.get("confidence") is None else round(shown["confidence"], 4)
    if "labels" in shown:
        chosen = shown["labels"]
        others = [label for label in likeliest if label not in chosen]
        shown_labels = [(label, True) for label in chosen] + [(label, False) for label in others]
        rounded = {label: round(share, 4) for label, share in (shares or {}).items()}
        return Labels(
            labels=[LabelShare(label=name, probability=rounded.get(name), chosen=is_on) for name, is_on in shown_labels]
        )
    if "value" in shown:
        return Score(score=shown["value"], probabilities=kept)
    if "spans" in shown:
        is_words = isinstance(value, list)
        parts = value if isinstance(value, list | str) else None
        cut = [None if parts is None else parts[span["start"] : span["end"]] for span in shown["spans"]]
        texts = [" ".join(map(str, part)) if isinstance(part, list) else part for part in cut]
        spans = [Span(**span, text=text) for span, text in zip(shown["spans"], texts, strict=True)]
        return Tags(text=shown["answer"], unit="words" if is_words else "characters", spans=spans)
    chosen = shown.get("label", shown.get("answer"))
    if "label" in shown or shares:
        return Choice(choice=str(chosen), confidence=confidence, probabilities=kept)
    return TextAnswer(text=str(chosen))


def answer_text(answer: Answer) -> str:
    """A typed answer in words, for a chat."""
    if isinstance(answer, Choice):
        return answer.choice
    if isinstance(answer, Labels):
        return ", ".join(share.label for share in answer.labels if share.chosen)
    return str(answer.score) if isinstance(answer, Score) else answer.text


class PredictRequest(Body):
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


# -- OpenAI


class Message(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description="who speaks")
    content: Text | list["TextPart"] = Field(description="what is said")
    name: Text | None = Field(None, description="accepted, without effect")

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class TextPart(Body):
    """A part of a message; only texts are served."""

    type: Literal["text"] = Field(description="text")
    text: Text = Field(description="the part")


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = Field(False, description="send the usage in a chunk of its own at the end")


class TextFormat(Body):
    """The only format of answers."""

    type: Literal["text"] = Field("text", description="plain text")


class Writing(Body):
    """What chats and completions have in common; values that would change nothing are accepted."""

    model: Name = Field(description="name, name@version or name@alias of a prompt, with or without the model: in front")
    max_tokens: int | None = Field(
        None, ge=1, le=100_000, description="most tokens of the answer; the task's if left out"
    )
    temperature: float | None = Field(None, ge=0, le=10, description="0 is greedy; the task's decoding if left out")
    top_p: float | None = Field(None, gt=0, le=1, description="draw from tokens that have this share together")
    seed: int | None = Field(None, ge=0, lt=1 << 63, description="seed of the drawing; 0 if left out")
    stop: Annotated[Text, Field(min_length=1, max_length=200)] | Stop | None = Field(
        None, description="texts at which the answer ends"
    )
    stream: bool | None = Field(None, description="send the answer as server-sent events while it is written")
    stream_options: StreamOptions | None = Field(None, description="with stream")
    user: Text | None = Field(None, description="accepted, not kept")
    n: Literal[1] | None = Field(None, description="number of answers")
    frequency_penalty: Literal[0] | None = Field(None, description="not served")
    presence_penalty: Literal[0] | None = Field(None, description="not served")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(Writing):
    """A conversation to go on with; a prompt of a template with one field is given the user's message as that field."""

    messages: list[Message] = Field(min_length=1, max_length=256, description="the conversation")
    max_completion_tokens: int | None = Field(None, ge=1, le=100_000, description="as max_tokens")
    logprobs: bool | None = Field(None, description="tell the written tokens' log-probabilities")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="and so many of the likeliest at each place")
    response_format: TextFormat | None = Field(None, description="text")


class CompletionRequest(Writing):
    """Texts to answer."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=64)] = Field(
        description="the field of a prompt whose template has one; of the model alone any text"
    )
    logprobs: int | None = Field(None, ge=0, le=20, description="tell log-probabilities, of so many at each place")
    echo: Literal[False] | None = Field(None, description="not served")
    best_of: Literal[1] | None = Field(None, description="not served")

    @property
    def texts(self) -> list[str]:
        """The texts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class CachedTokens(Record):
    """Details of the tokens that were read."""

    cached_tokens: int = Field(0, description="of texts that ran for an earlier request")


class WritingUsage(Record):
    """Tokens, as OpenAI counts them."""

    prompt_tokens: int = Field(description="read, prompts not counted")
    completion_tokens: int = Field(description="written")
    total_tokens: int = Field(description="both")
    prompt_tokens_details: CachedTokens = Field(CachedTokens(), description="details")

    @classmethod
    def of(cls, *usages: Usage) -> "WritingUsage":
        """The sum."""
        read, written = (sum(getattr(use, name) for use in usages) for name in ("input_tokens", "output_tokens"))
        cached = CachedTokens(cached_tokens=sum(use.cached_tokens for use in usages))
        return cls(
            prompt_tokens=read, completion_tokens=written, total_tokens=read + written, prompt_tokens_details=cached
        )


class Facts(Record):
    """What OpenAI's replies have no place for."""

    kind: str = Field(description="kind of the prompt's task; `model` of the model alone")
    answer: Answer | None = Field(None, description="the typed answer, where the prompt does not write text")


class TopToken(Record):
    """A token and its log-probability, as a chat tells them."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class ChatToken(TopToken):
    """A written token, as a chat tells it."""

    top_logprobs: list[TopToken] = Field([], description="the likeliest at its place")


class ChatLogprobs(Record):
    """Written tokens of a chat."""

    content: list[ChatToken] = Field(description="in order")


class CompletionLogprobs(Record):
    """Written tokens of a completion."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


Finish = Literal["stop", "length"]


class ReplyMessage(Record):
    """The answer in a conversation, or a part of it in a stream."""

    role: Literal["assistant"] | None = "assistant"
    content: str | None = Field(None, description="the text")


class ChatChoice(Record):
    """The answer to a conversation."""

    index: int = 0
    message: ReplyMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish


class ChatDelta(Record):
    """A part of the answer."""

    index: int = 0
    delta: ReplyMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None


class CompletionChoice(Record):
    """The answer to a text, or a part of it in a stream."""

    index: int = 0
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Finish | None = None


class _Reply(Record):
    id: str = Field(description="the request's")
    created: int = Field(description="seconds since 1970")
    model: str = Field(description="the prompt, pinned")
    system_fingerprint: str | None = Field(None, description="the beginning of the prompt's SHA-256")
    usage: WritingUsage | None = None
    overture: Facts | None = None


class ChatReply(_Reply):
    """The answer to a conversation."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class ChatChunk(_Reply):
    """One event of a streamed chat."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatDelta]


class CompletionReply(_Reply):
    """Answers to texts, or one event of a stream."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]


# -- System One


class Question(Body):
    """A question about the state; it names a stored prompt, or is named like one."""

    type: Literal["choice", "score", "noul"] = Field(description="one of several, a step of a scale, or yes and no")
    prompt: Name | None = Field(None, description="the prompt that answers it; the question's own name if left out")
    instructions: Text | Fields | None = Field(None, description="accepted; the prompt was tuned on its own template")
    criteria: dict[str, JsonValue] | list[Text] | None = Field(None, description="labels of the prompt, for a check")


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
    """What a stored prompt is."""

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
    """What an alias is now."""

    alias: str = Field(description="name@alias")
    prompt: str = Field(description="name@version")


class Removed(Record):
    """What was removed."""

    removed: list[str] = Field(description="name@version")


class Drift(Record):
    """Whether a prompt fits the model that is loaded."""

    prompt: str = Field(description="name@version")
    fits: bool = Field(description="whether it is served")
    problem: str | None = Field(None, description="why not")


class Health(Record):
    """Whether the server works."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    status: Literal["ok", "starting", "down"]
    restarts: int = Field(0, description="how often the model's process was started again")


class TokenizeRequest(Body):
    """A text."""

    text: Text = Field(description="the text")


class TokenizeReply(Record):
    """Its tokens."""

    tokens: list[int]
    count: int
