"""The routes of all pages: each page's module brings its own; here are signing in and the files beside the pages."""

from fastapi import APIRouter, FastAPI
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from overture.core.records.base import Record
from overture.server.errors import Refused
from overture.server.pages import compare, label, new_run, playground, prompt, prompts, runs
from overture.server.pages.site import STATIC, Site, form_of, local_path, path_of, see, static_file
from overture.server.schema import Name


class KeyForm(Record):
    """The form with which a browser signs in."""

    key: Name = Field(description="a key of the server")
    next_path: Name = Field("/", description="where to go then")


def add_pages(app: FastAPI, site: Site) -> None:
    """Add the pages to an application; they are no part of the API's schema."""
    for module in (prompts, prompt, playground, label, new_run, runs, compare):
        app.include_router(module.routes(site), include_in_schema=False)
    app.include_router(_entrance(site), include_in_schema=False)


def _entrance(site: Site) -> APIRouter:
    router = APIRouter()

    @router.get("/enter")
    def enter(request: Request, token: str = "") -> Response:
        """Sign in by a start link, or show the form that asks for a key."""
        if not site.access.keys:
            return see("/")
        if token and (key := site.sessions.entered(token)):
            response: Response = see("/")
            response.headers["set-cookie"] = site.sessions.opened(key)
            return response
        return site.page(request, "enter.html", next_path=path_of(request), is_wrong=bool(token))

    @router.post("/enter")
    async def enter_by_key(request: Request) -> Response:
        """Sign in by a key."""
        form = await form_of(request, KeyForm)
        key = site.access.key_of(form.key)
        if key is None:
            refusal = Refused(401, "invalid_api_key", "this is not a key of the server", where="key")
            return site.refusal(refusal, request.scope, local_path(form.next_path))
        response = see(local_path(form.next_path))
        response.headers["set-cookie"] = site.sessions.opened(key)
        return response

    @router.get("/state")
    def state(request: Request) -> Response:
        """Whether the model is ready: the part of a page that asks again until it is."""
        return site.page(request, "page.html", "model")

    @router.post("/leave")
    def leave(request: Request) -> Response:
        """Sign out."""
        response = see("/enter")
        response.headers["set-cookie"] = site.sessions.closed(request.headers.get("cookie", ""))
        return response

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        """A file beside the pages; its address changes with its contents."""
        if name not in STATIC:
            raise Refused(404, "not_found", "no such file", where="name", got=name)
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(static_file(name), headers=headers, media_type=STATIC[name])

    return router
