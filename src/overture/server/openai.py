"""Chats and completions in the shape that OpenAI's clients read, whole or streamed."""

import asyncio
import base64
import struct
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, JsonValue

from overture.core.errors import OvertureError
from overture.core.records.serving import (
    AnswersEvent,
    DoneEvent,
    Event,
    Finish,
    Request,
    TokenEvent,
    Usage,
    WrittenToken,
)
from overture.server.answers import answer_text, typed_answer
from overture.server.errors import Refused
from overture.server.openai_schema import (
    ChatChoice,
    ChatChunk,
    ChatDelta,
    ChatLogprobs,
    ChatReply,
    ChatRequest,
    ChatToken,
    CompletionChoice,
    CompletionLogprobs,
    CompletionReply,
    CompletionRequest,
    Embedding,
    EmbeddingReply,
    EmbeddingRequest,
    EmbeddingUsage,
    Facts,
    ReplyMessage,
    TopToken,
    WritingUsage,
)
from overture.server.registry import Served
from overture.server.security import Visit
from overture.server.service import Service, all_of, row_of

_KEEP_ALIVE_S = 15.0


@dataclass(slots=True)
class _Answer:
    """An answer as far as it is written."""

    prompt: Served
    texts: list[str] = field(default_factory=list)
    tokens: list[WrittenToken] = field(default_factory=list)
    typed: Any = None
    finish: Finish = "stop"
    usage: Usage = field(default_factory=Usage)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.texts)

    def add(self, event: Event) -> str:
        """Take an event in; returns the text that it brings."""
        text = ""
        if isinstance(event, TokenEvent):
            text = event.text
            self.tokens += event.tokens
        elif isinstance(event, AnswersEvent):
            self.typed = typed_answer(dict(event.answers[self.prompt.ref]))
            text = answer_text(self.typed)
        elif isinstance(event, DoneEvent):
            self.finish, self.usage = event.finish, event.usage
        self.texts.append(text)
        return text


class Writer:
    """One chat or completion request.

    Args:
        service: asks the engine.
        body: the client's.
        visit: the request.
    """

    def __init__(self, service: Service, body: ChatRequest | CompletionRequest, visit: Visit) -> None:
        self.service, self.body, self.visit = service, body, visit
        self.prompt = service.registry.served(body.model, visit.key)
        self.model = self.prompt.ref or service.registry.base
        visit.prompts = (self.model,)
        self.created = int(time.time())
        self.requests = [self._request(number, row) for number, row in enumerate(self._rows())]

    def _rows(self) -> list[dict[str, JsonValue] | list[int]]:
        if isinstance(self.body, CompletionRequest) and self.body.echo:
            return [{"text": text} if isinstance(text, str) else text for text in self.body.texts]
        if isinstance(self.body, CompletionRequest):
            return [
                row_of(text, [self.prompt], "prompt") if isinstance(text, str) else text for text in self.body.texts
            ]
        roles = {"developer": "system"}
        messages: list[Any] = [
            {"role": roles.get(turn.role, turn.role), "content": turn.text} for turn in self.body.messages
        ]
        if not self.prompt.ref or self.prompt.columns == ("messages",):
            return [{"messages": messages}]
        if len(messages) != 1 or messages[0]["role"] != "user":
            what = f"the template of {self.prompt.ref} shows one text and no conversation"
            got = ", ".join(turn["role"] for turn in messages)
            raise Refused.invalid(what, where="messages", got=got, wanted="one user message")
        return [row_of(messages[0]["content"], [self.prompt], "messages")]

    def _request(self, number: int, row: dict[str, JsonValue] | list[int]) -> Request:
        body, is_echoed = self.body, isinstance(self.body, CompletionRequest) and bool(self.body.echo)
        if isinstance(body, ChatRequest):
            top, most = (
                ((body.top_logprobs or 0) if body.logprobs else None),
                body.max_completion_tokens or body.max_tokens,
            )
        else:
            top, most = body.logprobs, body.max_tokens
        if not self.prompt.writes and top is not None:
            what = f"{self.prompt.ref} does not write token by token, so there are no log-probabilities of tokens"
            raise Refused.invalid(what, where="model", fix="POST /v1/predict gives the probabilities")
        if not self.prompt.writes and (is_echoed or isinstance(row, list) or body.json_schema is not None):
            what = f"{self.prompt.ref} writes no text, so there is no echo, no text in tokens and no response_format"
            raise Refused.invalid(what, where="model", got=self.prompt.kind)
        if most == 0 and not is_echoed:
            raise Refused.invalid("max_tokens is 0 and nothing is echoed", where="max_tokens", got="0", wanted="echo")
        return self.visit.request(
            number,
            prompts=(self.prompt.ref,),
            row=row if isinstance(row, dict) else {},
            ids=() if isinstance(row, dict) else tuple(row),
            is_echoed=is_echoed,
            json_schema=body.json_schema,
            want="write" if self.prompt.writes else "answer",
            max_new_tokens=most,
            temperature=body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.seed or 0,
            stop=body.stops,
            top_logprobs=top,
        )

    # -- whole

    async def reply(self) -> ChatReply | CompletionReply:
        """The whole answer."""
        answers = await all_of(self._written(request) for request in self.requests)
        shape = ChatReply if isinstance(self.body, ChatRequest) else CompletionReply
        choices = [self._choice(number, answer) for number, answer in enumerate(answers)]
        usage = WritingUsage.of(*(answer.usage for answer in answers))
        return shape(choices=choices, usage=usage, overture=self._facts(answers[0]), **self._head())

    async def _written(self, request: Request) -> _Answer:
        answer = _Answer(self.prompt)
        async for event in self._events(request):
            answer.add(event)
        self.visit.count(answer.usage)
        return answer

    def _events(self, request: Request) -> AsyncIterator[Event]:
        return self.service.events(request, "messages" if isinstance(self.body, ChatRequest) else "prompt")

    def _choice(self, number: int, answer: _Answer) -> ChatChoice | CompletionChoice:
        if isinstance(self.body, CompletionRequest):
            logprobs = None if self.body.logprobs is None else completion_logprobs(answer.tokens, self.body.logprobs)
            return CompletionChoice(index=number, text=answer.text, logprobs=logprobs, finish_reason=answer.finish)
        return ChatChoice(
            message=ReplyMessage(content=answer.text),
            logprobs=chat_logprobs(answer.tokens) if self.body.logprobs else None,
            finish_reason=answer.finish,
        )

    def _head(self) -> dict[str, Any]:
        manifest = self.prompt.manifest
        fingerprint = manifest.tensors_sha256[:12] if manifest else None
        prefix = "chatcmpl" if isinstance(self.body, ChatRequest) else "cmpl"
        return {
            "id": f"{prefix}-{self.visit.id}",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint,
        }

    def _facts(self, answer: _Answer) -> Facts:
        return Facts(kind=self.prompt.kind, answer=answer.typed)

    # -- streamed

    async def chunks(self) -> AsyncIterator[BaseModel]:
        """The answer in parts, as it grows.

        Raises:
            Refused: several texts; or the engine's error.
        """
        if len(self.requests) > 1:
            raise Refused.invalid("a stream can have only one text", where="prompt", wanted="one text")
        answer, is_first = _Answer(self.prompt), True
        async for event in self._events(self.requests[0]):
            text = answer.add(event)
            tokens = event.tokens if isinstance(event, TokenEvent) else ()
            if is_first or text or (tokens and self.requests[0].top_logprobs is not None):
                yield self._chunk(text, tokens, is_first=is_first)
                is_first = False
        self.visit.count(answer.usage)
        yield self._chunk("", (), finish=answer.finish, facts=self._facts(answer))
        if self.body.stream_options and self.body.stream_options.include_usage:
            shape = ChatChunk if isinstance(self.body, ChatRequest) else CompletionReply
            yield shape(choices=[], usage=WritingUsage.of(answer.usage), **self._head())

    def _chunk(
        self,
        text: str,
        tokens: Sequence[WrittenToken],
        is_first: bool = False,
        finish: Finish | None = None,
        facts: Facts | None = None,
    ) -> ChatChunk | CompletionReply:
        if isinstance(self.body, CompletionRequest):
            logprobs = (
                completion_logprobs(tokens, self.body.logprobs) if self.body.logprobs is not None and tokens else None
            )
            choice = CompletionChoice(text=text, logprobs=logprobs, finish_reason=finish)
            return CompletionReply(choices=[choice], overture=facts, **self._head())
        delta = ReplyMessage(role="assistant" if is_first else None, content=None if finish else text)
        logprobs_of_chat = chat_logprobs(tokens) if self.body.logprobs and tokens else None
        change = ChatDelta(delta=delta, logprobs=logprobs_of_chat, finish_reason=finish)
        return ChatChunk(choices=[change], overture=facts, **self._head())


def chat_logprobs(tokens: Sequence[WrittenToken]) -> ChatLogprobs:
    """Written tokens as a chat tells them."""
    content = [
        ChatToken(
            token=token.text,
            logprob=token.logprob or 0.0,
            bytes=list(token.text.encode()),
            top_logprobs=[
                TopToken(token=other.text, logprob=other.logprob, bytes=list(other.text.encode()))
                for other in token.top
            ],
        )
        for token in tokens
    ]
    return ChatLogprobs(content=content)


def completion_logprobs(tokens: Sequence[WrittenToken], top: int) -> CompletionLogprobs:
    """Written tokens as a completion tells them."""
    offsets, length = [], 0
    for token in tokens:
        offsets.append(length)
        length += len(token.text)
    return CompletionLogprobs(
        tokens=[token.text for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[
            None if token.logprob is None else {other.text: other.logprob for other in token.top} for token in tokens
        ]
        if top
        else None,
        text_offset=offsets,
    )


async def embeddings(service: Service, body: EmbeddingRequest, visit: Visit) -> EmbeddingReply:
    """The embedding of each text, under a prompt or of the model alone."""
    prompt = service.registry.served(body.model, visit.key)
    model = prompt.ref or service.registry.base
    visit.prompts = (model,)
    is_behind = prompt.manifest is not None and prompt.manifest.place == "after"
    requests = []
    for number, text in enumerate(body.texts):
        if not isinstance(text, str) and prompt.ref:
            what = f"{prompt.ref} needs texts, which its template shows"
            raise Refused.invalid(what, where="input", got="tokens", wanted="texts")
        requests.append(
            visit.request(
                number,
                prompts=(prompt.ref,),
                row=row_of(text, [prompt], "input") if isinstance(text, str) else {},
                ids=() if isinstance(text, str) else tuple(text),
                want="embed",
                pooling=body.pooling or ("last" if is_behind else "mean"),
            )
        )
    data, num_tokens = [], 0
    for number, (answers, usage) in enumerate(
        await all_of(service.answered(request, visit, "input") for request in requests)
    ):
        values = answers[prompt.ref]["embedding"]
        if body.encoding_format == "base64":
            values = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        data.append(Embedding(index=number, embedding=values))
        num_tokens += usage.input_tokens
    return EmbeddingReply(
        data=data, model=model, usage=EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens)
    )


async def server_sent(chunks: AsyncIterator[BaseModel], first: BaseModel) -> AsyncIterator[bytes]:
    """Chunks as server-sent events; a comment every 15 s keeps the connection, an error is the last event.

    Args:
        chunks: what is still to come.
        first: the chunk that came before the answer's headers were sent.
    """

    async def following() -> BaseModel | None:
        return await anext(chunks, None)

    pending: asyncio.Task[BaseModel | None] | None = None
    try:
        yield f"data: {first.model_dump_json()}\n\n".encode()
        while True:
            pending = asyncio.ensure_future(following())
            while not (await asyncio.wait({pending}, timeout=_KEEP_ALIVE_S))[0]:
                yield b": keep-alive\n\n"
            if (chunk := pending.result()) is None:
                break
            yield f"data: {chunk.model_dump_json()}\n\n".encode()
    except OvertureError as error:
        body = bytes(Refused.of(error).response().body)
        yield b"data: " + body + b"\n\n"
    finally:
        if pending is not None and not pending.done():
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await chunks.aclose()  # type: ignore[attr-defined]
    yield b"data: [DONE]\n\n"
