"""The playground: one text, up to eight prompts side by side, answers as they come."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from fastapi import APIRouter
from pydantic import Field, JsonValue
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from overture.core.records.base import Record
from overture.server.errors import Refused
from overture.server.pages.answering import Column, Options, Update, columns_of, updates
from overture.server.pages.live import event_of
from overture.server.pages.site import PAGE_HEADERS, Site, block, pairs_of, query_of, read_pairs
from overture.server.pages.snippets import Snippets, sample_row, snippets
from overture.server.registry import Served
from overture.server.schema import Name, Text
from overture.server.security import Visit
from overture.server.service import Row

MAX_PROMPTS = 8
_MAX_OFFERED, _MAX_SUGGESTED = 12, 500
_FIELD = "field."
_DEFAULT_TOKENS = 64


class PlayQuery(Record):
    """The query of a link to the playground."""

    prompt: list[Name] = Field([], max_length=MAX_PROMPTS, description="prompts to ask")
    text: Text = Field("", description="a text to begin with")


class PlayForm(Record):
    """The form, without the fields of templates."""

    prompt: list[Name] = Field([], description="the chosen prompts")
    add: Name | None = Field(None, description="another prompt, by its name")
    text: Text = Field("", description="the text that all prompts are asked about")
    max_tokens: int | None = Field(None, ge=1, le=4096, description="most tokens of a written answer")
    temperature: float | None = Field(None, ge=0, le=10, description="0 is greedy; the task's decoding if left out")
    coverage: float | None = Field(None, gt=0, lt=1, description="show sets of labels that hold the right one so often")
    live: bool = Field(False, description="answer while the text is being edited")


@dataclass(frozen=True, slots=True)
class InputField:
    """A field of the templates.

    Args:
        name: of the field.
        text: what stands in it.
        sample: what could stand in it.
        is_json: whether it holds a list or an object.
    """

    name: str
    text: str
    sample: str
    is_json: bool


@dataclass(frozen=True, slots=True)
class Play:
    """The state of the form.

    Args:
        names: the chosen prompts.
        offered: prompts that can be chosen by a click, the chosen ones among them.
        suggested: names to complete a typed one.
        columns: the chosen prompts, opened.
        fields: fields of their templates; empty where one text is enough.
        form: the rest of the form.
        typed: what stands in the fields.
    """

    names: tuple[str, ...]
    offered: tuple[str, ...]
    suggested: tuple[str, ...]
    columns: tuple[Column, ...]
    fields: tuple[InputField, ...]
    form: PlayForm
    typed: dict[str, str] = field(default_factory=dict)

    @property
    def prompts(self) -> list[Served]:
        """The prompts that can answer."""
        return [column.prompt for column in self.columns if column.prompt]

    @property
    def writes(self) -> bool:
        """Whether an answer is written token by token."""
        return any(prompt.writes for prompt in self.prompts)

    @property
    def promises_sets(self) -> bool:
        """Whether a prompt can tell a set of labels that holds the right one."""
        return any(prompt.promises_sets for prompt in self.prompts)


def play_of(site: Site, visit: Visit, form: PlayForm, typed: dict[str, str]) -> Play:
    """The form with everything that it shows.

    Raises:
        Refused: too many prompts.
    """
    registry = site.service.registry
    names = [name for name in registry.names() if visit.key.may_use(name)]
    newest = [name for name in islice(names, 4 * _MAX_OFFERED) if registry.store.versions(name)][:_MAX_OFFERED]
    prompt_names = list(dict.fromkeys([*form.prompt, *([form.add] if form.add else [])]))
    if len(prompt_names) > MAX_PROMPTS:
        got, wanted = f"{len(prompt_names)} prompts", f"at most {MAX_PROMPTS}"
        raise Refused.invalid("too many prompts at once", where="prompt", got=got, wanted=wanted)
    base = [registry.base] if registry.serves_base else []
    columns = columns_of(site.service, prompt_names, visit)
    return Play(
        names=tuple(prompt_names),
        offered=tuple(dict.fromkeys([*base, *newest, *prompt_names])),
        suggested=tuple(names[:_MAX_SUGGESTED]),
        columns=tuple(columns),
        fields=_fields_of([column.prompt for column in columns if column.prompt], typed),
        form=form.model_copy(update={"add": None}),
        typed=typed,
    )


def _fields_of(prompts: Sequence[Served], typed: dict[str, str]) -> tuple[InputField, ...]:
    """The fields of all templates, or none where one text is enough for all."""
    samples = [(prompt, sample_row(prompt)) for prompt in prompts if prompt.ref]
    if all(isinstance(sample, str) for _, sample in samples):
        return ()
    values: dict[str, JsonValue] = {}
    for prompt, sample in samples:
        row = dict.fromkeys(prompt.columns, sample) if isinstance(sample, str) else sample
        for name in prompt.columns:
            values.setdefault(name, row.get(name, ""))
    return tuple(
        InputField(
            name,
            typed.get(name, ""),
            sample if isinstance(sample, str) else json.dumps(sample, ensure_ascii=False),
            not isinstance(sample, str),
        )
        for name, sample in values.items()
    )


def row_of_play(play: Play) -> Row:
    """The row about which the prompts are asked.

    Raises:
        Refused: nothing was chosen or typed, or a list is no JSON.
    """
    if not play.columns:
        raise Refused.invalid("no prompt is chosen", where="prompt", fix="choose one above the text")
    if not play.fields:
        if not play.form.text.strip():
            raise Refused.invalid("there is no text yet", where="text", fix="type one, then ask again")
        return play.form.text
    row: dict[str, JsonValue] = {}
    for item in play.fields:
        try:
            row[item.name] = json.loads(item.text) if item.is_json else item.text
        except ValueError as error:
            what, fix = f"the field {item.name} is not JSON", f"write it as {item.sample}"
            raise Refused.invalid(what, where=item.name, got=str(error), fix=fix) from None
    return row


def routes(site: Site) -> APIRouter:
    """The routes of the page."""
    router = APIRouter()

    async def posted(request: Request) -> Play:
        pairs = await pairs_of(request)
        typed = {name.removeprefix(_FIELD): text for name, text in pairs if name.startswith(_FIELD)}
        form = read_pairs([(name, text) for name, text in pairs if not name.startswith(_FIELD)], PlayForm)
        return play_of(site, request.state.visit, form, typed)

    def shown(request: Request, play: Play, part: str, **values: Any) -> Response:
        defaults = {"results": None, "use": None, "error": None, "asks_at_once": False, "max_prompts": MAX_PROMPTS}
        values = {**defaults, **values}
        return site.page(request, "playground.html", part, play=play, **values)

    @router.get("/try")
    def playground(request: Request) -> Response:
        """The form, with the prompts and the text that a link names."""
        query = query_of(request, PlayQuery)
        form = PlayForm(prompt=query.prompt, text=query.text, max_tokens=_DEFAULT_TOKENS, live=True)
        play = play_of(site, request.state.visit, form, {})
        if not query.prompt:
            # Something to type at once: the model without a prompt beside the first prompt, or the first two. A prompt
            # of another model would only say that it cannot answer.
            visible = columns_of(site.service, play.offered[:MAX_PROMPTS], request.state.visit)
            able = [column.name for column in visible if column.prompt]
            first = form.model_copy(update={"prompt": able[:2]})
            play = play_of(site, request.state.visit, first, {})
        return shown(request, play, "form")

    @router.post("/try/form")
    async def choose(request: Request) -> Response:
        """The form for other prompts; what was typed stays."""
        play = await posted(request)
        return shown(
            request, play, "form", asks_at_once=play.form.live and bool(play.columns and play.form.text.strip())
        )

    @router.post("/try")
    async def ask(request: Request) -> Response:
        """All answers: as a page, or as a stream of its parts where htmx asks."""
        play, visit = await posted(request), request.state.visit
        is_part = request.headers.get("hx-request") == "true"
        try:
            row = row_of_play(play)
        except Refused as error:
            return shown(request, play, "problem", error=error)
        use = snippets(play.prompts, row, site.address(request), play.form.max_tokens)
        options = Options(play.form.max_tokens, play.form.temperature, play.form.coverage)
        coming = updates(site.service, play.columns, row, options, visit)
        if is_part:
            return StreamingResponse(_stream(play, use, coming), media_type="text/event-stream", headers=PAGE_HEADERS)
        results = [Result(column) for column in play.columns]
        async for update in coming:
            results[update.index] = results[update.index].with_update(update)
        return shown(request, play, "form", results=results, use=use)

    return router


@dataclass(frozen=True, slots=True)
class Result:
    """The state of a column.

    Args:
        column: the prompt.
        update: its newest state; None before the first.
    """

    column: Column
    update: Update | None = None

    def with_update(self, update: Update) -> "Result":
        """The state after an update: a written answer is all its parts."""
        if self.update is None:
            return Result(self.column, update)
        answer = update.answer or self.update.answer
        return Result(self.column, replace(update, text=self.update.text + update.text, answer=answer))


async def _stream(play: Play, use: Snippets, coming: AsyncIterator[Update]) -> AsyncIterator[bytes]:
    """The answers as server-sent events: first the empty columns, then what each of them says."""
    results = [Result(column) for column in play.columns]
    yield event_of(block("playground.html", "answers", results=results, use=use))
    async with aclosing(coming) as arriving:  # type: ignore[type-var]
        async for update in arriving:
            index = update.index
            is_growth = bool(update.text) and update.ms is None
            is_first = results[index].update is None
            results[index] = results[index].with_update(update)
            part = "growth" if is_growth and not is_first else "change"
            yield event_of(block("playground.html", part, result=results[index], index=index, growth=update.text))
