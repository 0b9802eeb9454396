"""The routes of the server. Each is a few lines: `Service`, `Writer` and `Registry` do the work."""

import asyncio
import logging
from itertools import islice
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from overture.core.errors import OvertureError, WrongName
from overture.server.errors import ErrorReply, Refused, invalid_body
from overture.server.front import Application, Health, health_of
from overture.server.openai import Writer, embeddings, server_sent
from overture.server.openai_schema import (
    ChatReply,
    ChatRequest,
    CompletionReply,
    CompletionRequest,
    EmbeddingReply,
    EmbeddingRequest,
)
from overture.server.pages.routes import add_pages
from overture.server.pages.site import Site
from overture.server.schema import (
    AliasReply,
    AliasRequest,
    Drift,
    ModelCard,
    ModelList,
    PredictReply,
    PredictRequest,
    PromptKept,
    PromptUpload,
    Removed,
    SystemOneReply,
    SystemOneRequest,
    TokenizeReply,
    TokenizeRequest,
)
from overture.server.security import MAX_BODY_BYTES, MAX_UPLOAD_BYTES, Access, Visit
from overture.server.service import Service, while_connected
from overture.server.sessions import Sessions
from overture.server.watch import Watch

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "the request is wrong, or comes too early"},
    "5XX": {"model": ErrorReply, "description": "the server cannot answer now"},
}
_UPLOAD = PromptUpload.model_json_schema()
_log = logging.getLogger(__name__)
_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


def _visit(request: Request) -> Visit:
    visit: Visit = request.state.visit
    return visit


def _admin(request: Request) -> Visit:
    visit = _visit(request)
    if visit.key.scope != "admin":
        raise Refused(
            403,
            "scope_not_allowed",
            "this key may not change prompts",
            where="Authorization",
            wanted="a key of scope admin",
        )
    return visit


VisitOf = Annotated[Visit, Depends(_visit)]
AdminOf = Annotated[Visit, Depends(_admin)]
Ref = Annotated[str, Path(min_length=1, max_length=200, description="name, name@version or name@alias")]


def application(service: Service, access: Access, watch: Watch, sessions: Sessions) -> Application:
    """All routes.

    Args:
        service: answers.
        access: who may ask.
        watch: counts requests.
        sessions: browsers that signed in.
    """
    site = Site(service, access, sessions, watch)
    app = FastAPI(title="Overture", docs_url=None, redoc_url=None, max_body_size=MAX_BODY_BYTES, responses=_ERRORS)
    _answer_errors(app, site)
    _add_asking(app, service)
    _add_models(app, service)
    _add_prompts(app, service)
    _add_state(app, service, watch)
    add_pages(app, site)
    return Application(app, site.refusal, service)


def _answer_errors(app: FastAPI, site: Site) -> None:
    """Every error in one shape; a page for a browser."""

    @app.exception_handler(OvertureError)
    async def known(request: Request, error: OvertureError) -> Response:
        if error.http_status == 500 and not isinstance(error, Refused):
            return await unknown(request, error)
        return site.refusal(Refused.of(error), request.scope)

    @app.exception_handler(OSError)
    async def of_system(request: Request, error: OSError) -> Response:
        if isinstance(error, ConnectionError | TimeoutError):
            return await unknown(request, error)
        _log.warning("request %s: the store failed", _visit(request).id, exc_info=error)
        return site.refusal(Refused.of_system(error), request.scope)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return site.refusal(invalid_body(error.errors()), request.scope)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
        whats = {404: "there is nothing at this address", 405: "this address does not take this method"}
        wants = {404: "an address in /openapi.json", 405: (error.headers or {}).get("Allow")}
        status, where = error.status_code, f"{request.method} {request.url.path}"[:200]
        what = whats.get(status, str(error.detail))
        refusal = Refused(status, codes.get(status, "invalid_request"), what, where=where, wanted=wants.get(status))
        response = site.refusal(refusal, request.scope)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        _log.error("request %s failed", _visit(request).id, exc_info=error)
        what = f"the server failed; its log has the reason under request {_visit(request).id}"
        return site.refusal(Refused(500, "internal_error", what), request.scope)


def _add_asking(app: FastAPI, service: Service) -> None:
    @app.post("/v1/predict", tags=["ask"])
    async def predict(body: PredictRequest, visit: VisitOf, request: Request) -> PredictReply:
        """Typed answers for rows under one prompt or several; a text runs once for all of them."""
        return await while_connected(request, service.predict(body, visit))

    @app.post("/v1/systemone", tags=["ask"])
    async def systemone(body: SystemOneRequest, visit: VisitOf, request: Request) -> SystemOneReply:
        """Typed questions about one state; each names a stored prompt."""
        return await while_connected(request, service.decide(body, visit))

    @app.post("/v1/chat/completions", tags=["ask"], response_model=ChatReply, responses=_STREAM)
    async def chat(body: ChatRequest, visit: VisitOf, request: Request) -> Any:
        """A conversation's next turn, in OpenAI's shape."""
        return await _whole_or_streamed(Writer(service, body, visit), request)

    @app.post("/v1/completions", tags=["ask"], response_model=CompletionReply, responses=_STREAM)
    async def complete(body: CompletionRequest, visit: VisitOf, request: Request) -> Any:
        """Answers to texts, in OpenAI's shape."""
        return await _whole_or_streamed(Writer(service, body, visit), request)

    @app.post("/v1/embeddings", tags=["ask"])
    async def embed(body: EmbeddingRequest, visit: VisitOf, request: Request) -> EmbeddingReply:
        """Hidden states of texts, of the model alone or under a prompt."""
        return await while_connected(request, embeddings(service, body, visit))

    @app.post("/tokenize", tags=["ask"])
    async def tokenize(body: TokenizeRequest, visit: VisitOf) -> TokenizeReply:
        """The model's tokens of a text."""
        del visit
        tokens = await service.engine.tokenize(body.text)
        return TokenizeReply(tokens=list(tokens), count=len(tokens))


async def _whole_or_streamed(writer: Writer, request: Request) -> Any:
    if not writer.body.stream:
        return await while_connected(request, writer.reply())
    chunks = writer.chunks()
    # Before the headers: what is refused is an error with its status, and no stream.
    first: BaseModel = await while_connected(request, anext(chunks))  # type: ignore[arg-type]
    return StreamingResponse(server_sent(chunks, first), media_type="text/event-stream")


def _add_models(app: FastAPI, service: Service) -> None:
    registry = service.registry

    @app.get("/v1/models", tags=["models"])
    def models(
        visit: VisitOf,
        name: Annotated[
            str | None, Query(min_length=1, max_length=200, description="all versions of this prompt")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="cards on a page")] = 100,
        after: Annotated[
            str | None, Query(max_length=200, description="id of the last card of the page before")
        ] = None,
    ) -> ModelList:
        """The newest version of each prompt, by name; the model first where it is served alone."""
        if name is None:
            cards = list(islice(registry.cards(visit.key, after), limit + 1))
        else:
            cards = registry.versions(name, visit.key)
            start = next((number for number, card in enumerate(cards, 1) if card.id == after), 0)
            cards = cards[start : start + limit + 1]
        page = cards[:limit]
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        return ModelList(data=page, has_more=len(cards) > limit, first_id=first, last_id=last)

    @app.get("/v1/models/{ref}", tags=["models"])
    @app.get("/v1/prompts/{ref}", tags=["prompts"])
    def model(ref: Ref, visit: VisitOf) -> ModelCard:
        """A prompt's card."""
        if ref == registry.base and registry.serves_base:
            return ModelCard(id=ref, created=0)
        return registry.card(registry.pinned(ref, visit.key, "ref"))

    @app.get("/v1/prompts/{ref}/drift", tags=["prompts"])
    def drift(ref: Ref, visit: VisitOf) -> Drift:
        """Whether the model is still the one that the prompt was made for."""
        card = registry.card(registry.pinned(ref, visit.key, "ref"))
        problem = card.overture.problem if card.overture else None
        return Drift(prompt=card.id, fits=problem is None, problem=problem)


def _add_prompts(app: FastAPI, service: Service) -> None:
    registry, store = service.registry, service.registry.store

    @app.put(
        "/v1/prompts/{name}",
        tags=["prompts"],
        status_code=201,
        max_body_size=MAX_UPLOAD_BYTES,
        responses={200: {"model": PromptKept, "description": "it is kept already"}},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _UPLOAD}}}},
    )
    async def keep(
        name: Ref,
        request: Request,
        visit: AdminOf,
        response: Response,
        if_none_match: Annotated[str | None, Header(max_length=80, description="SHA-256 of the tensors")] = None,
    ) -> PromptKept:
        """Keep a prompt as the next version of its name; it is on the disk, and open, when this answers."""
        version, is_new = await registry.keep(
            name, await request.body(), (if_none_match or "").strip('"') or None, visit
        )
        if not is_new:
            response.status_code = 200
        return version

    @app.delete("/v1/prompts/{ref}", tags=["prompts"])
    async def remove(ref: Ref, visit: AdminOf) -> Removed:
        """Remove one version, or with a name alone all of them; requests in progress are still answered."""
        return Removed(removed=await registry.remove(ref, visit.key))

    @app.post("/v1/prompts/{name}/alias", tags=["prompts"])
    async def move_alias(name: Ref, body: AliasRequest, visit: AdminOf) -> AliasReply:
        """Give a version a name; the next request with it is answered by that version."""
        ref = registry.pinned(
            name if body.version is None else f"{name.partition('@')[0]}@{body.version}", visit.key, "name"
        )
        try:
            version = await asyncio.to_thread(store.move_alias, ref, body.alias)
        except WrongName as wrong:
            what = "this is not a valid alias"
            raise Refused(400, "invalid_name", what, where="alias", got=wrong.got, wanted=wrong.wanted) from None
        return AliasReply(alias=f"{version.partition('@')[0]}@{body.alias}", prompt=version)

    @app.post("/v1/prompts/{ref}/warm", tags=["prompts"])
    async def warm(ref: Ref, visit: AdminOf) -> ModelCard:
        """Open a prompt, so that its first request does not wait for it."""
        prompt = registry.served(ref, visit.key, "ref")
        if not prompt.ref:
            # The model alone is always there.
            return ModelCard(id=registry.base, created=0)
        await service.engine.load(prompt.ref, visit.id)
        return registry.card(prompt.ref)


def _add_state(app: FastAPI, service: Service, watch: Watch) -> None:
    @app.get("/health", tags=["state"])
    async def alive() -> Health:
        """Whether the gateway answers; it needs no key."""
        return health_of(service.engine.stats())

    @app.get("/ready", tags=["state"])
    async def ready(visit: VisitOf) -> Health:
        """Whether the model answers."""
        del visit
        state = health_of(service.engine.stats())
        if state.status != "ok":
            raise Refused(503, "not_ready", "the model is not loaded", got=state.status, retry_after_s=1.0)
        return state

    @app.get("/metrics", tags=["state"], response_class=PlainTextResponse)
    def metrics(visit: VisitOf) -> Response:
        """Numbers for Prometheus, with the names of all prompts."""
        if "*" not in visit.key.prompts:
            what = "metrics name prompts that this key may not use"
            raise Refused(403, "scope_not_allowed", what, where="Authorization", wanted="a key for all prompts")
        return Response(watch.text(), media_type="text/plain; version=0.0.4")
