"""Chats and completions as OpenAI's clients send and read them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from overture.core.records.base import Record
from overture.core.records.serving import Finish, Usage
from overture.server.answers import Answer
from overture.server.schema import Body, Name, Stop, Text, plain


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
    """An answer of any form."""

    type: Literal["text"] = Field("text", description="plain text")


class JsonFormat(Body):
    """An answer that is one JSON object."""

    type: Literal["json_object"] = Field(description="any JSON object")


class NamedSchema(Body):
    """A JSON schema."""

    name: Text = Field(description="accepted, without effect")
    description: Text | None = Field(None, description="accepted, without effect")
    json_schema: Annotated[dict[str, JsonValue], AfterValidator(plain)] = Field(
        {}, alias="schema", description="the schema; any object if left out"
    )
    strict: bool | None = Field(None, description="accepted; the schema is always kept to")


class SchemaFormat(Body):
    """An answer that is JSON of a schema."""

    type: Literal["json_schema"] = Field(description="JSON of a schema")
    json_schema: NamedSchema = Field(description="the schema")


Format = Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1, max_length=100_000)]


def texts_of(value: str | list[str] | list[list[int]] | list[int]) -> list[str | list[int]]:
    """One text or several, each as a text or as tokens."""
    if isinstance(value, str):
        return [value]
    return [part for part in value if not isinstance(part, int)] or [[part for part in value if isinstance(part, int)]]


class Writing(Body):
    """Fields of both chats and completions; values that would change nothing are accepted."""

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
    response_format: Format | None = Field(None, description="what form an answer has; JSON needs the extra `schema`")
    stream: bool | None = Field(None, description="send the answer as server-sent events while it is written")
    stream_options: StreamOptions | None = Field(None, description="with stream")
    user: Text | None = Field(None, description="accepted, not kept")
    n: Literal[1] | None = Field(None, description="number of answers")
    frequency_penalty: Literal[0] | None = Field(None, description="not served")
    presence_penalty: Literal[0] | None = Field(None, description="not served")

    @property
    def json_schema(self) -> dict[str, JsonValue] | None:
        """The schema that the answer must follow; empty for any JSON object, None for any text."""
        if isinstance(self.response_format, SchemaFormat):
            return self.response_format.json_schema.json_schema
        return {} if isinstance(self.response_format, JsonFormat) else None

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


class CompletionRequest(Writing):
    """Texts to answer."""

    prompt: Text | Annotated[list[Text] | list[Ids], Field(min_length=1, max_length=64)] | Ids = Field(
        description="the field of a prompt whose template has one; of the model alone any text; or tokens, which are "
        "read as they are, behind the prompt"
    )
    max_tokens: int | None = Field(
        None, ge=0, le=100_000, description="most tokens of the answer; the task's if left out; 0 with echo"
    )
    logprobs: int | None = Field(None, ge=0, le=20, description="tell log-probabilities, of so many at each place")
    echo: bool | None = Field(
        None, description="tell the text, too, with its log-probabilities; it is read as it is, behind the prompt"
    )
    best_of: Literal[1] | None = Field(None, description="not served")

    @property
    def texts(self) -> list[str | list[int]]:
        """The texts, some perhaps as tokens."""
        return texts_of(self.prompt)


class EmbeddingRequest(Body):
    """Texts to embed."""

    model: Name = Field(description="the model, or a prompt whose template has one field")
    input: Text | Annotated[list[Text] | list[Ids], Field(min_length=1, max_length=256)] | Ids = Field(
        description="texts; or tokens, of the model alone"
    )
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: float32, little-endian")
    pooling: Literal["mean", "last"] | None = Field(
        None,
        description="mean of the text's states, or the state that a label is read from; mean if left out, but "
        "last of a prompt that stands behind the text",
    )
    dimensions: None = Field(None, description="not served")
    user: Text | None = Field(None, description="accepted, not kept")

    @property
    def texts(self) -> list[str | list[int]]:
        """The texts, some perhaps as tokens."""
        return texts_of(self.input)


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
        num_read, num_written = (
            sum(getattr(use, name) for use in usages) for name in ("input_tokens", "output_tokens")
        )
        cached = CachedTokens(cached_tokens=sum(use.cached_tokens for use in usages))
        return cls(
            prompt_tokens=num_read,
            completion_tokens=num_written,
            total_tokens=num_read + num_written,
            prompt_tokens_details=cached,
        )


class Facts(Record):
    """Facts for which OpenAI's replies have no field."""

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
    token_logprobs: list[float | None] = Field(description="none of the first token of a text that is echoed")
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


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


class Embedding(Record):
    """The embedding of a text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="numbers, or base64 of them")


class EmbeddingUsage(Record):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingReply(Record):
    """Embeddings in the order of the texts; they are not normalised."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str = Field(description="the prompt, pinned, or the model")
    usage: EmbeddingUsage
