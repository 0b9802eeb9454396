"""Asks several prompts about one row, for the playground: labels together, written answers as they grow."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from overture.core.errors import OvertureError
from overture.core.records.serving import AnswersEvent, DoneEvent, Request, TokenEvent, Usage
from overture.server.answers import Answer, Span, typed_answer
from overture.server.errors import Refused
from overture.server.registry import Served
from overture.server.security import Visit
from overture.server.service import Row, Service, row_of


@dataclass(frozen=True, slots=True)
class Column:
    """One prompt that is asked.

    Args:
        name: as it was chosen.
        prompt: the prompt; None where it cannot answer.
        error: why it cannot.
    """

    name: str
    prompt: Served | None = None
    error: OvertureError | None = None

    @property
    def title(self) -> str:
        """Its name with its version."""
        return (self.prompt.ref if self.prompt else "") or self.name


@dataclass(frozen=True, slots=True)
class Options:
    """How answers are written, and how sure labels shall be.

    Args:
        max_new_tokens: most tokens of each; the task's if None.
        temperature: 0 is greedy; the task's decoding if None.
        coverage: how often a set of labels shall hold the right one, for prompts that can promise it; None for none.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    coverage: float | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """Something new in one column, or its end.

    Args:
        index: number of the column.
        text: what the written answer has grown by.
        answer: a typed answer.
        pieces: the row's text cut at the answer's spans, each piece with its label or none.
        error: why there is no answer, or no more of it.
        ms: how long it took; None where more is to come.
        usage: tokens, at the end of a written answer and of the labels together.
        num_together: prompts that the usage is of.
    """

    index: int
    text: str = ""
    answer: Answer | None = None
    pieces: Sequence[tuple[str, str]] = ()
    error: OvertureError | None = None
    ms: int | None = None
    usage: Usage | None = None
    num_together: int = 1


async def updates(
    service: Service, columns: Sequence[Column], row: Row, options: Options, visit: Visit
) -> AsyncIterator[Update]:
    """The updates of all columns, as they come; leaving the loop cancels requests that still run.

    Args:
        service: asks the engine.
        columns: the prompts.
        row: what they are asked about.
        options: of written answers.
        visit: the request.
    """
    arrived: asyncio.Queue[Update | None] = asyncio.Queue()
    usable = [(index, column.prompt) for index, column in enumerate(columns) if column.prompt]
    visit.prompts = tuple(prompt.ref for _, prompt in usable if prompt.ref)
    typed = [(index, prompt) for index, prompt in usable if not prompt.writes]
    sure = [(index, prompt) for index, prompt in typed if options.coverage and prompt.promises_sets]
    works = [_Asking(service, row, options, visit, arrived, [pair]).written() for pair in usable if pair[1].writes]
    others = [pair for pair in typed if pair not in sure]
    works += [_Asking(service, row, options, visit, arrived, pairs).typed() for pairs in (sure, others) if pairs]

    async def run() -> None:
        try:
            await asyncio.gather(*works)
        finally:
            arrived.put_nowait(None)

    running = asyncio.create_task(run())
    try:
        while (update := await arrived.get()) is not None:
            yield update
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Asking:
    """One request to the engine, for the columns that share it."""

    service: Service
    row: Row
    options: Options
    visit: Visit
    arrived: asyncio.Queue[Update | None]
    pairs: Sequence[tuple[int, Served]]

    async def typed(self) -> None:
        """Ask for labels, tags and numbers: one request, in which the text runs once."""
        started = time.monotonic()
        prompts = [prompt for _, prompt in self.pairs]
        try:
            row = row_of(self.row, prompts, "text")
            request = self._request(row, tuple(dict.fromkeys(prompt.ref for prompt in prompts)), "answer")
            answers, usage = await self.service.answered(request, self.visit, "text")
        except OvertureError as error:
            for index, _ in self.pairs:
                await self.arrived.put(Update(index, error=error, ms=_since(started)))
            return
        for index, prompt in self.pairs:
            value = row[prompt.columns[0]] if len(prompt.columns) == 1 else None
            answer = typed_answer(answers[prompt.ref], None, value)
            pieces = cut(value, answer.spans) if answer.type == "tags" else ()
            update = Update(
                index, answer=answer, pieces=pieces, ms=_since(started), usage=usage, num_together=len(self.pairs)
            )
            await self.arrived.put(update)

    async def written(self) -> None:
        """Ask for a written answer."""
        started, usage = time.monotonic(), Usage()
        (index, prompt) = self.pairs[0]
        try:
            row = row_of(plain_text(self.row) if not prompt.ref else self.row, [prompt], "text")
            request = self._request(row, (prompt.ref,), "write")
            async for event in self.service.events(request, "text"):
                if isinstance(event, TokenEvent) and event.text:
                    await self.arrived.put(Update(index, text=event.text))
                elif isinstance(event, AnswersEvent):
                    answer = typed_answer(dict(event.answers[prompt.ref]))
                    await self.arrived.put(Update(index, answer=answer))
                elif isinstance(event, DoneEvent):
                    usage = event.usage
        except OvertureError as error:
            await self.arrived.put(Update(index, error=error, ms=_since(started)))
            return
        self.visit.count(usage)
        await self.arrived.put(Update(index, ms=_since(started), usage=usage))

    def _request(self, row: dict[str, JsonValue], refs: tuple[str, ...], want: Any) -> Request:
        is_written = want == "write"
        return self.visit.request(
            self.pairs[0][0],
            prompts=refs,
            row=row,
            want=want,
            max_new_tokens=self.options.max_new_tokens if is_written else None,
            temperature=self.options.temperature if is_written else None,
            coverage=None if is_written or not self.pairs[0][1].promises_sets else self.options.coverage,
        )


def columns_of(service: Service, names: Sequence[str], visit: Visit) -> list[Column]:
    """The prompts by their names; the model without a prompt comes first, a prompt that cannot answer says why."""
    base = service.registry.base
    columns = []
    for name in sorted(dict.fromkeys(names), key=lambda name: name != base):
        try:
            columns.append(Column(name, service.registry.served(name, visit.key, "prompt")))
        except OvertureError as error:
            columns.append(Column(name, error=Refused.of(error)))
    return columns


def plain_text(row: Row) -> str:
    """A row as the model reads it without a template: its texts, one below the other."""
    if isinstance(row, str):
        return row
    return "\n".join(value if isinstance(value, str) else str(value) for value in row.values())


def cut(value: JsonValue | Mapping[str, Any], spans: Sequence[Span]) -> list[tuple[str, str]]:
    """A text, or a list of words, cut at spans: pieces with the label of the span, or none.

    Args:
        value: what the spans lie in; anything else has no pieces.
        spans: in any order; one that begins within another is left out.
    """
    if not isinstance(value, str | list):
        return []
    pieces: list[tuple[str, str]] = []
    position = 0

    def text(start: int, end: int) -> str:
        part = value[start:end]
        return part if isinstance(part, str) else " ".join(map(str, part)) + " "

    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.start < position:
            continue
        pieces += [(text(position, span.start), "")] if span.start > position else []
        pieces.append((text(span.start, span.end), span.label))
        position = span.end
    return [*pieces, (text(position, len(value)), "")] if position < len(value) else pieces


def _since(started: float) -> int:
    return round(1000 * (time.monotonic() - started))
