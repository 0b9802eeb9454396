"""The page of one prompt: what it is, whether it can be trusted, where it comes from, how to use it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from overture.core.errors import OvertureError, WrongName
from overture.core.records.base import Record
from overture.core.records.scores import Interval
from overture.server.errors import Refused
from overture.server.pages.site import REPORT_HEADERS, Site, form_of, see
from overture.server.pages.snippets import Address, Snippets, sample_row, snippets
from overture.server.registry import Served
from overture.server.schema import ModelCard, Name
from overture.server.security import Visit
from overture.server.watch import Calls
from overture.store.explanations import explanation_path
from overture.store.manifest import Manifest
from overture.store.names import parsed_ref

_MAX_VERSIONS = 50


class AliasForm(Record):
    """A name that is given to a version, or taken away."""

    alias: Name = Field(description="such as prod")
    version: int = Field(ge=1, le=10**9 - 1, description="the version that gets it")


class AliasRemoval(Record):
    """A name that is taken away."""

    alias: Name = Field(description="such as prod")


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """Scores of one metric.

    Args:
        metric: its name, with the split.
        value: with the prompt.
        interval: of the value, if there is one.
        without: of the model without a prompt on the same rows, if that was measured.
    """

    metric: str
    value: float
    interval: Interval | None
    without: float | None


@dataclass(frozen=True, slots=True)
class PromptPage:
    """The facts on the page of a prompt.

    Args:
        card: what a list says of it.
        manifest: all that is recorded of it; None of a damaged one.
        problem: why it is not served.
        scores: all scores.
        versions: the newest versions of the name, newest first.
        aliases: names of versions.
        use: requests; None of a prompt that is not served.
        has_explanation: whether `overture explain` has written its page.
        calls: requests since the server's start; None where there was none.
    """

    card: ModelCard
    manifest: Manifest | None
    problem: OvertureError | None
    scores: list[ScoreLine]
    versions: list[ModelCard]
    aliases: dict[str, int]
    use: Snippets | None
    has_explanation: bool
    calls: Calls | None = None


def prompt_page(site: Site, ref: str, where: Address) -> PromptPage:
    """The facts of a pinned prompt."""
    registry = site.service.registry
    name = ref.partition("@")[0]
    prompt: Served | None = None
    problem: OvertureError | None
    try:
        prompt = registry.read(ref)
        problem = registry.problem(prompt)
    except OvertureError as error:
        problem = Refused.of(error)
    manifest = prompt.manifest if prompt else None
    versions = registry.store.versions(name)[: -_MAX_VERSIONS - 1 : -1]
    return PromptPage(
        card=registry.card(ref),
        manifest=manifest,
        problem=problem,
        scores=_score_lines(manifest) if manifest else [],
        versions=[registry.card(f"{name}@{version}") for version in versions],
        aliases=registry.store.aliases(name),
        use=snippets([prompt], sample_row(prompt), where) if prompt and not problem else None,
        has_explanation=_explanation(site, ref).is_file(),
        calls=site.watch.calls(ref),
    )


def _score_lines(manifest: Manifest) -> list[ScoreLine]:
    values = {name: (value, interval) for name, value, interval in manifest.metrics.named()}
    lines = []
    for name, (value, interval) in values.items():
        if not name.startswith("no_prompt."):
            without = values.get(f"no_prompt.{name}")
            lines.append(ScoreLine(name.replace(".", " "), value, interval, without[0] if without else None))
    return lines


def _explanation(site: Site, ref: str) -> Path:
    return explanation_path(site.service.registry.store.root, parsed_ref(ref))


def facts_of(manifest: Manifest) -> dict[str, Any]:
    """Where a prompt comes from, in names and values that are told."""
    lineage = {name.replace("_", " "): value for name, value in manifest.lineage.dump().items() if name != "gates"}
    plain = {name: value for name, value in lineage.items() if isinstance(value, str | int | float)}
    lists = {name: ", ".join(map(str, value)) for name, value in lineage.items() if isinstance(value, list)}
    return {**plain, **lists}


def routes(site: Site) -> APIRouter:
    """The routes of the page."""
    router = APIRouter()
    registry = site.service.registry

    def check_admin(request: Request) -> None:
        if request.state.visit.key.scope != "admin":
            what, wanted = "this key may not change prompts", "a key of scope admin"
            raise Refused(403, "scope_not_allowed", what, where="Authorization", wanted=wanted)

    @router.get("/p/{ref}")
    def prompt(ref: str, request: Request) -> Response:
        """One version of a prompt."""
        visit: Visit = request.state.visit
        pinned = registry.pinned(ref, visit.key)
        page = prompt_page(site, pinned, site.address(request))
        origin = facts_of(page.manifest) if page.manifest else {}
        return site.page(
            request, "prompt.html", "aliases", shown=page, origin=origin, moved=request.query_params.get("moved", "")
        )

    @router.get("/p/{ref}/explanation")
    def explanation(ref: str, request: Request) -> Response:
        """The page that `overture explain` wrote."""
        path = _explanation(site, registry.pinned(ref, request.state.visit.key))
        if not path.is_file():
            fix = f"overture explain {ref}"
            raise Refused(404, "not_found", "this prompt was not explained yet", where="ref", got=ref, fix=fix)
        return HTMLResponse(path.read_bytes(), headers=REPORT_HEADERS)

    @router.post("/p/{name}/alias")
    async def move_alias(name: str, request: Request) -> Response:
        """Give a version a name."""
        check_admin(request)
        form = await form_of(request, AliasForm)
        pinned = registry.pinned(f"{name}@{form.version}", request.state.visit.key)
        ref = await asyncio.to_thread(registry.store.move_alias, pinned, form.alias)
        return see(f"/p/{ref}", moved=form.alias)

    @router.post("/p/{name}/alias/remove")
    async def remove_alias(name: str, request: Request) -> Response:
        """Take a version's name away."""
        check_admin(request)
        form = await form_of(request, AliasRemoval)
        if form.alias.isdecimal():
            raise WrongName("this is a version and no alias", got=form.alias)
        pinned = registry.pinned(f"{name}@{form.alias}", request.state.visit.key)
        await asyncio.to_thread(registry.store.remove_alias, f"{pinned.partition('@')[0]}@{form.alias}")
        return see(f"/p/{pinned}")

    return router
