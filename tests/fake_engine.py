"""An engine for tests of the gateway: fixed answers, no model."""

import asyncio
from collections.abc import AsyncIterator, Callable

from pydantic import JsonValue

from overture.core.errors import ArtifactError
from overture.core.records.serving import (
    AnswersEvent,
    DoneEvent,
    EngineStats,
    ErrorEvent,
    Event,
    Request,
    TokenEvent,
    Usage,
    WrittenToken,
)

Answer = Callable[[str, Request], dict[str, JsonValue]]


class FakeEngine:
    """Meets `Engine` without a model: fixed answers, and the row's words as what is written.

    Args:
        answer: the answer of a prompt to a request.
        refused: prompts that cannot be served.
        delay_s: seconds before each event.
        failure: of every request, where there is one.
    """

    def __init__(
        self,
        answer: Answer = lambda prompt, request: {"label": "positive", "confidence": 0.75},
        refused: tuple[str, ...] = (),
        delay_s: float = 0.0,
        failure: ErrorEvent | None = None,
    ) -> None:
        self.answer, self.refused, self.delay_s, self.failure = answer, refused, delay_s, failure
        self.requests: list[Request] = []
        self.running: set[str] = set()
        self.cancelled: list[str] = []
        self.loaded: set[str] = set()
        self.is_started = False

    async def start(self) -> None:
        """Meets `Engine.start`."""
        self.is_started = True

    async def stop(self, grace_s: float = 10.0) -> None:
        """Meets `Engine.stop`."""
        self.is_started = False

    async def submit(self, request: Request) -> AsyncIterator[Event]:
        """Meets `Engine.submit`."""
        self.requests.append(request)
        self.running.add(request.id)
        try:
            for event in self._events(request):
                await asyncio.sleep(self.delay_s)
                yield event
        except GeneratorExit:
            self.cancelled.append(request.id)
            raise
        finally:
            self.running.discard(request.id)

    def _events(self, request: Request) -> list[Event]:
        if self.failure is not None:
            return [self.failure.model_copy(update={"id": request.id})]
        num_input = sum(len(str(value).split()) for value in request.row.values())
        if request.want != "write":
            answers = {prompt: self.answer(prompt, request) for prompt in request.prompts}
            return [AnswersEvent(id=request.id, answers=answers), DoneEvent(id=request.id, usage=Usage(input_tokens=1))]
        words = " ".join(map(str, request.row.values())).split()
        written_words = words[: request.max_new_tokens]
        texts = [word if number == 0 else f" {word}" for number, word in enumerate(written_words)]
        tokens = [WrittenToken(id=number, text=text, logprob=-0.5) for number, text in enumerate(texts)]
        usage = Usage(input_tokens=num_input, output_tokens=len(written_words))
        return [
            *(TokenEvent(id=request.id, text=token.text, tokens=(token,)) for token in tokens),
            DoneEvent(id=request.id, finish="stop" if len(written_words) == len(words) else "length", usage=usage),
        ]

    async def cancel(self, request_id: str) -> None:
        """Meets `Engine.cancel`."""
        self.cancelled.append(request_id)

    async def load(self, prompt: str, request_id: str = "command") -> None:
        """Meets `Engine.load`."""
        del request_id
        if prompt in self.refused:
            raise ArtifactError("this prompt cannot be served", where=prompt)
        self.loaded.add(prompt)

    async def unload(self, prompt: str) -> None:
        """Meets `Engine.unload`."""
        self.loaded.discard(prompt)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Meets `Engine.tokenize`."""
        return tuple(text.encode())

    def stats(self) -> EngineStats:
        """Meets `Engine.stats`."""
        return EngineStats(is_alive=self.is_started, running=len(self.running), prompts=len(self.loaded))
