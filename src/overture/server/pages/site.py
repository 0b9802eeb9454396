"""Shared by all pages: templates, headers, forms, errors as pages, files beside the pages."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_origin
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from overture.core.files import store_dir
from overture.server.errors import Refused, invalid_body
from overture.server.launch import Launcher
from overture.server.pages.snippets import Address
from overture.server.security import ANYONE, Access, Visit
from overture.server.service import Service
from overture.server.sessions import Sessions
from overture.server.watch import Watch

F = TypeVar("F", bound=BaseModel)

PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    # A form that is posted must say where it stands, or the guard refuses it.
    "referrer-policy": "same-origin",
}
"""Headers of every page. No style and no script stands inside a page, and none comes from elsewhere."""
REPORT_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; sandbox"
    )
}
"""Headers of a finished report, a file with styles of its own: it can run nothing and send nothing."""
_FOLDER = Path(__file__).parent
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
STATIC = {path.name: _TYPES[path.suffix[1:]] for path in sorted((_FOLDER / "static").iterdir())}
"""Files beside the pages, by name, with their types."""
_MAX_FORM_FIELDS = 1000


class NavItem(NamedTuple):
    """A page in the navigation, and the beginning of the paths that belong to it."""

    title: str
    path: str
    below: str


NAV = (
    NavItem("Prompts", "/", "/p/"),
    NavItem("Playground", "/try", "/try/"),
    NavItem("Label", "/label", "/label/"),
    NavItem("Runs", "/runs", "/runs/"),
    NavItem("Compare", "/compare", "/compare/"),
)
"""The pages, in the order of the navigation."""


class Site:
    """Makes pages of templates.

    Args:
        service: answers, and knows the prompts.
        access: who may ask.
        sessions: browsers that signed in.
        watch: counts requests.
    """

    def __init__(self, service: Service, access: Access, sessions: Sessions, watch: Watch) -> None:
        self.service, self.access, self.sessions, self.watch = service, access, sessions, watch
        self.launcher = Launcher(service.registry.store.root)

    def address(self, request: Request) -> Address:
        """Where programs ask what a page asks; the store's folder is told to this machine only."""
        registry, has_keys = self.service.registry, bool(self.access.keys)
        root = registry.store.root.absolute()
        store = "" if has_keys or root == store_dir().absolute() else str(root)
        return Address(str(request.base_url).rstrip("/"), registry.base, has_keys, store)

    def page(self, request: Request, template: str, part: str = "", status: int = 200, **values: Any) -> HTMLResponse:
        """A page; or one block of it, where htmx asks for a part.

        Args:
            request: the browser's.
            template: name of its file in `templates`.
            part: the block that replaces a part of a page that is shown already; empty for none.
            status: of the answer.
            values: what the template shows, beside `site`.
        """
        if part and request.headers.get("hx-request") == "true":
            return HTMLResponse(self.part(request, template, part, **values), status, headers=PAGE_HEADERS)
        return HTMLResponse(rendered(template, **values, site=self._facts(request)), status, headers=PAGE_HEADERS)

    def part(self, request: Request, template: str, part: str, **values: Any) -> str:
        """One block of a page as HTML."""
        return block(template, part, **values, site=self._facts(request))

    def _facts(self, request: Request) -> "SiteFacts":
        visit: Visit = request.state.visit
        stats = self.service.engine.stats()
        return SiteFacts(
            path=request.url.path,
            model=self.service.registry.base,
            model_state="down" if stats.failure or not stats.is_alive else "ready" if stats.is_ready else "loading",
            is_admin=visit.key.scope == "admin",
            is_signed_in=bool(self.access.keys) and visit.key != ANYONE,
        )

    def refusal(self, error: Refused, scope: Scope, next_path: str = "") -> Response:
        """An error as a page for a browser, as JSON for a program.

        Args:
            error: why the request is refused.
            scope: of the request.
            next_path: where to go after signing in; the page that was asked for if left out.
        """
        if not is_for_browser(scope):
            return error.response()
        request = Request(scope)
        plain = error.response()
        template = "enter.html" if error.status == 401 else "problem.html"
        response = self.page(
            request,
            template,
            "main",
            error.status,
            error=error,
            next_path=next_path or path_of(request),
            is_wrong=False,
        )
        for name in ("retry-after", "www-authenticate"):
            if name in plain.headers:
                response.headers[name] = plain.headers[name]
        return response


class SiteFacts(NamedTuple):
    """Facts for the frame of every page."""

    path: str
    model: str
    model_state: Literal["ready", "loading", "down"]
    is_admin: bool
    is_signed_in: bool
    nav: tuple[NavItem, ...] = NAV

    def is_here(self, item: NavItem) -> bool:
        """Whether an item of the navigation holds this page."""
        return self.path == item.path or self.path.startswith(item.below)


def is_for_browser(scope: Scope) -> bool:
    """Whether a person reads the answer: routes of the API answer in JSON, whoever asks."""
    is_api = scope["path"].startswith("/v1/")
    return not is_api and "text/html" in Headers(scope=scope).get("accept", "")


def path_of(request: Request) -> str:
    """The path and the query of a request for a page, to come back to; the start page of any other request."""
    if request.method != "GET" or request.url.path == "/enter":
        return "/"
    return local_path(request.url.path + (f"?{request.url.query}" if request.url.query else ""))


def local_path(path: str) -> str:
    """The path, if it leads to this server; the start page if not."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\"))
    return path if is_local and path.isprintable() else "/"


def see(path: str, **query: Any) -> RedirectResponse:
    """Send the browser to another page, which is what it reloads."""
    query = {name: value for name, value in query.items() if value not in (None, "")}
    return RedirectResponse(path + (f"?{urlencode(query, doseq=True)}" if query else ""), 303)


async def pairs_of(request: Request) -> list[tuple[str, str]]:
    """Names and texts of a posted form, in its order; line ends as in the text that was typed.

    Raises:
        Refused: the body is no urlencoded form.
    """
    body = await request.body()
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS, errors="strict")
    except ValueError as error:
        raise Refused.invalid("the form cannot be read", where="body", got=str(error)) from None
    # Browsers post texts of several lines with \r\n.
    return [(name, text.replace("\r\n", "\n")) for name, text in pairs]


async def form_of(request: Request, model: type[F]) -> F:
    """A posted form as a record: lists take all values of a name; what was left empty is left out.

    Args:
        request: the browser's, its body urlencoded.
        model: the record's class.

    Raises:
        Refused: the fields are not the record's.
    """
    return read_pairs(await pairs_of(request), model)


def query_of(request: Request, model: type[F]) -> F:
    """The query of a request as a record, read as a form is.

    Raises:
        Refused: the fields are not the record's.
    """
    return read_pairs(request.query_params.multi_items(), model)


def read_pairs(pairs: list[tuple[str, str]], model: type[F]) -> F:
    """Names and texts as a record.

    Raises:
        Refused: the fields are not the record's.
    """
    values: dict[str, Any] = {}
    for name, text in pairs:
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) in (list, tuple):
            values.setdefault(name, []).append(text)
        elif text or (field is not None and field.is_required()):
            values[name] = text
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid_body(error.errors()) from None


# -- templates


def rendered(template: str, **values: Any) -> str:
    """A template as HTML."""
    return _environment().get_template(template).render(values)


def block(template: str, name: str, **values: Any) -> str:
    """One block of a template as HTML."""
    page_template = _environment().get_template(template)
    return "".join(page_template.blocks[name](page_template.new_context(values)))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = {
        name: f"/static/{name}?v={hashlib.sha256(static_file(name)).hexdigest()[:12]}" for name in STATIC
    }
    # Blocks are rendered alone too, without what a template imports at its top.
    environment.globals["ui"] = environment.get_template("macros.html").module
    environment.filters["span"] = span_text
    environment.filters["query"] = lambda values: urlencode(kept_query(values), doseq=True)
    return environment


def span_text(seconds: float) -> str:
    """A time span for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def kept_query(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a query that say something."""
    return {name: value for name, value in values.items() if value not in (None, "", [])}


@cache
def static_file(name: str) -> bytes:
    """The contents of a file beside the pages."""
    return (_FOLDER / "static" / name).read_bytes()
