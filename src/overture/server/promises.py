"""Places in the queue promised to refused requests, so that the `Retry-After` they were told is true.

Under a lasting overload a request that comes back finds the queue as full as it left it, with those who came meanwhile.
So a refused request keeps a place: the same request, sent again when its seconds are over, goes before newcomers.
Their waiting time counts the promised places, by the share of those that are taken at all.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

_GRACE_S, _GRACE = 3.0, 0.1
"""Seconds, and share of those that were told, after which a promised place is free again: told seconds are whole ones,
and the way takes time."""
_MOST = 4096
"""Places of a tenant; beyond them nothing is promised."""
_MEMORY = 0.05
"""Weight of the last promise in the share of those that are taken."""


@dataclass(frozen=True, slots=True)
class Promise:
    """A place.

    Args:
        cost: units of the request.
        reading: units of these until it begins.
        made_at: when the request was refused.
        due: when it shall come again.
    """

    cost: float
    reading: float
    made_at: float
    due: float

    @property
    def until(self) -> float:
        """When the place is free for others."""
        return self.due + _GRACE_S + _GRACE * (self.due - self.made_at)


@dataclass(slots=True)
class Promises:
    """The promises of a lane, by tenant and by what the request is."""

    by_tenant: dict[str, "OrderedDict[int, Promise]"] = field(default_factory=dict)
    share: float = 0.5

    def of(self, tenant: str, key: int) -> Promise | None:
        """The promise that a request was given."""
        places = self.by_tenant.get(tenant)
        return places.get(key) if places else None

    def give(self, tenant: str, key: int, promise: Promise) -> None:
        """Promise a place."""
        places = self.by_tenant.setdefault(tenant, OrderedDict())
        if len(places) < _MOST:
            places[key] = promise

    def take(self, tenant: str, key: int) -> None:
        """A request has come back for its place."""
        del self.by_tenant[tenant][key]
        self.share += _MEMORY * (1.0 - self.share)

    def expire(self, now: float) -> None:
        """Forget the places for which nobody came."""
        for tenant, places in list(self.by_tenant.items()):
            while places and next(iter(places.values())).until < now:
                places.popitem(last=False)
                self.share -= _MEMORY * self.share
            if not places:
                del self.by_tenant[tenant]

    def expected(self) -> Iterator[tuple[str, float, float, float]]:
        """Requests that will probably come back: for each tenant their cost, reading units and number."""
        for tenant, places in tuple(self.by_tenant.items()):
            promised = tuple(places.values())
            cost, reading = sum(place.cost for place in promised), sum(place.reading for place in promised)
            yield tenant, self.share * cost, self.share * reading, self.share * len(promised)
