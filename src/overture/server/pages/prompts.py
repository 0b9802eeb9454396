"""The page of all prompts: what there is, how good it is, whether it is served."""

from dataclasses import dataclass
from itertools import islice

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from overture.core.records.base import Record
from overture.server.pages.site import Site, query_of
from overture.server.schema import ModelCard
from overture.server.security import Key, Visit

PAGE_SIZE = 50


class PromptsQuery(Record):
    """The query of the page."""

    q: str = Field("", max_length=100, description="a part of the names to show")
    page: int = Field(1, ge=1, le=10**6, description="which page of them, from 1")


@dataclass(frozen=True, slots=True)
class PromptsPage:
    """A page of prompts.

    Args:
        cards: the newest version of each prompt on the page.
        aliases: id of a card -> the versions of its prompt that have names, by these.
        num_names: names that match, on all pages.
        page: the number of the page.
        last_page: the number of the last one.
    """

    cards: list[ModelCard]
    aliases: dict[str, dict[str, int]]
    num_names: int
    page: int
    last_page: int


def prompts_page(site: Site, key: Key, query: PromptsQuery) -> PromptsPage:
    """The prompts of one page: only their manifests are read, whatever the store holds."""
    registry = site.service.registry
    words = query.q.lower().split()
    names = [name for name in registry.names() if all(word in name for word in words) and key.may_use(name)]
    if len(names) <= PAGE_SIZE:
        # A name remains when its versions are removed; where few are shown, these are not counted.
        names = [name for name in names if registry.store.versions(name)]
    last_page = max(1, -(-len(names) // PAGE_SIZE))
    page = min(query.page, last_page)
    start = (page - 1) * PAGE_SIZE
    versions = ((name, registry.store.versions(name)) for name in islice(names, start, start + PAGE_SIZE))
    cards = [registry.card(f"{name}@{numbers[-1]}") for name, numbers in versions if numbers]
    aliases = {card.id: registry.store.aliases(card.id.partition("@")[0]) for card in cards}
    return PromptsPage(cards, aliases, len(names), page, last_page)


def routes(site: Site) -> APIRouter:
    """The routes of the page."""
    router = APIRouter()

    @router.get("/")
    def prompts(request: Request) -> Response:
        """All prompts, a page at a time."""
        visit: Visit = request.state.visit
        query = query_of(request, PromptsQuery)
        return site.page(request, "prompts.html", "rows", query=query, shown=prompts_page(site, visit.key, query))

    return router
