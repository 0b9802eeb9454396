"""Requests from a gateway to an engine, and the events that it sends back; all of them travel as JSON."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, TypeAdapter

from overture.core.records.base import Record
from overture.core.records.shares import Doubt

Finish = Literal["stop", "length"]


class Request(Record, Doubt):
    """One row that prompts are asked about."""

    id: str = Field(description="unique among the requests that are not answered yet", min_length=1)
    tenant: str = Field("", description="whose it is; texts are kept for each tenant apart")
    prompts: tuple[str, ...] = Field(description="pinned as name@version; an empty name is the model without a prompt")
    row: dict[str, JsonValue] = Field(description="the template's fields; of the model alone text or messages")
    ids: tuple[int, ...] = Field((), description="tokens in place of a row; they are read as they are")
    is_echoed: bool = Field(False, description="the row's text is read as it is, and told with its log-probabilities")
    labels: tuple[str, ...] = Field((), description="labels that the model alone chooses from")
    json_schema: dict[str, JsonValue] | None = Field(
        None, description="what is written is JSON of it; {} for any object"
    )
    want: Literal["answer", "write", "embed"] = Field(
        "answer", description="all answers at once, tokens as they are written, or the row's embedding"
    )
    pooling: Literal["mean", "last"] = Field("mean", description="of an embedding")
    is_calibrated: bool = Field(False, description="label scores are divided by those of rows without content")
    max_new_tokens: int | None = Field(None, ge=0, description="most tokens of an answer; the task's when None")
    temperature: float | None = Field(
        None, ge=0, description="draw tokens by chance; 0 is greedy, None the task's own decoding"
    )
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest tokens that have this share together")
    seed: int = Field(0, ge=0, description="seed of the drawing")
    stop: tuple[str, ...] = Field((), description="texts at which the answer ends, beside the task's")
    top_logprobs: int | None = Field(None, ge=0, description="how many other tokens to tell at each place")
    deadline_s: float | None = Field(None, gt=0, description="seconds from now after which nobody waits for it")


class Usage(Record):
    """Tokens of one request."""

    input_tokens: int = Field(0, description="of the rows as the prompts read them, prompts not counted")
    cached_tokens: int = Field(0, description="of these, tokens of texts that ran for an earlier request")
    shared_tokens: int = Field(0, description="of these, tokens that ran once for several prompts of this request")
    output_tokens: int = Field(0, description="written")


class TokenShare(Record):
    """A token and its log-probability."""

    id: int = Field(description="in the vocabulary")
    text: str = Field(description="as it is spelt")
    logprob: float = Field(description="natural logarithm of its probability")


class WrittenToken(TokenShare):
    """A token of an answer, or of a text that is echoed."""

    logprob: float | None = Field(description="natural logarithm of its probability; none of a text's first token")  # type: ignore[assignment]

    top: tuple[TokenShare, ...] = Field((), description="the likeliest tokens at its place")


class AnswersEvent(Record):
    """All answers of a request."""

    kind: Literal["answers"] = "answers"
    id: str = Field(description="the request's")
    answers: dict[str, dict[str, JsonValue]] = Field(description="prompt -> its answer, as `predict` shows it")


class TokenEvent(Record):
    """An answer has grown; the texts of all events together are the answer."""

    kind: Literal["token"] = "token"
    id: str = Field(description="the request's")
    text: str = Field(description="what can be shown now; empty while a stop text or a character is not whole")
    tokens: tuple[WrittenToken, ...] = Field((), description="written since the last event, the end token left out")


class DoneEvent(Record):
    """The request is answered."""

    kind: Literal["done"] = "done"
    id: str = Field(description="the request's")
    finish: Finish = Field("stop", description="whether the answer ended or was cut")
    usage: Usage = Usage()


class ErrorEvent(Record):
    """The request is not answered, or not to its end."""

    kind: Literal["error"] = "error"
    id: str = Field(description="the request's")
    error: str = Field(description="class of the error")
    message: str = Field(description="what happened and how to mend it")
    status: int = Field(description="HTTP's code for it")
    retry_after_s: float | None = Field(None, description="after how many seconds it should work; None when unknown")


Event = Annotated[AnswersEvent | TokenEvent | DoneEvent | ErrorEvent, Field(discriminator="kind")]
EVENTS: TypeAdapter[Event] = TypeAdapter(Event)
"""Reads an event of any kind."""


class EngineStats(Record):
    """How an engine is doing."""

    is_alive: bool = Field(True, description="whether its process runs")
    is_ready: bool = Field(True, description="whether the model is loaded and measured")
    restarts: int = Field(0, description="how often its process was started again")
    backbone: dict[str, JsonValue] | None = Field(None, description="the model's reference, once it is loaded")
    queued: int = Field(0, description="requests that wait")
    running: int = Field(0, description="requests that the model works on")
    wait_s: float = Field(0.0, description="seconds that a new request would wait, about")
    tokens_per_s: float = Field(0.0, description="prompt tokens that the model reads in a second, as measured at start")
    slots: int = Field(0, description="answers that are being written")
    slot_bytes: int = Field(0, description="memory that these take")
    text_bytes: int = Field(0, description="memory that kept texts take")
    prompts: int = Field(0, description="prompts that are open")
    failure: str = Field("", description="why the model could not be loaded; nothing is answered then")


# -- between the gateway's process and the worker's


class VllmOptions(Record):
    """A vLLM server that answers what it can; its key is never here, but in the environment."""

    url: str = Field(description="its address")
    prompts: str = Field(description="the folder from which its connector reads prompts")


class WorkerOptions(Record):
    """The model that a worker serves, and its limits."""

    store: str = Field(description="the folder of the prompts' store")
    backbone: str = Field("smollm2", description="the frozen model: a known name, a Hub id, a folder or a file")
    revision: str | None = Field(None, description="commit of a model on the Hub")
    device: str = Field("auto", description="auto takes a GPU where there is one")
    dtype: str = Field("auto", description="auto is float32 on the CPU and bfloat16 on a GPU")
    allow_drift: bool = Field(False, description="accept another tokenizer or chat template around the same weights")
    slots: int = Field(32, ge=1, description="answers that are written at once")
    slot_bytes: int | None = Field(
        None, ge=0, description="memory for answers that are being written; a quarter of what is free when None"
    )
    text_bytes: int | None = Field(None, ge=0, description="memory for kept texts; a share of what is free when None")
    prompt_bytes: int = Field(1 << 30, ge=0, description="memory for open prompts; the one used longest ago is closed")
    step_s: float = Field(0.3, gt=0, description="seconds between two tokens of an answer while texts are read")
    vllm: VllmOptions | None = Field(None, description="a vLLM server that has the model; None for this engine alone")


class Command(Record):
    """A message from the gateway to the worker."""

    do: Literal["ask", "cancel", "load", "unload", "tokenize"] = Field(description="the command")
    id: str = Field(description="of the request, or of the command itself")
    request: Request | None = Field(None, description="what is asked")
    text: str = Field("", description="a prompt's name, or a text to cut into tokens")


class Outcome(Record):
    """The result of a command that is no request."""

    id: str = Field(description="the command's")
    tokens: tuple[int, ...] = Field((), description="of a text")
    error: ErrorEvent | None = Field(None, description="why it failed")


class Report(Record):
    """A message from the worker after each step."""

    events: tuple[Event, ...] = Field((), description="of requests, in order")
    outcomes: tuple[Outcome, ...] = Field((), description="of commands")
    begun: tuple[str, ...] = Field((), description="requests whose answers are being written since the last report")
    stats: EngineStats = Field(description="how it is doing")
