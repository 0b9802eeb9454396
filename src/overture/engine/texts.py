"""Separate views of one cache for several tenants: no answer's time shows what texts another tenant has sent."""

from collections.abc import Hashable

from torch import Tensor

from overture.engine.cache import InputCache


class TenantTexts:
    """One tenant's view of a cache that all share; the least recently used entries of all tenants are dropped.

    Args:
        cache: the cache.
        tenant: part of every key.
    """

    def __init__(self, cache: InputCache, tenant: str) -> None:
        self._cache, self._tenant = cache, tenant
        self.dtype = cache.dtype

    def belong_to(self, state: tuple[object, int]) -> None:
        """As `InputCache.belong_to`."""
        self._cache.belong_to(state)

    def get(self, ids: tuple[Hashable, ...]) -> Tensor | None:
        """The tenant's entry of a text, or None when it has to run."""
        return self._cache.get((self._tenant, *ids))

    def put(self, ids: tuple[Hashable, ...], entry: Tensor) -> None:
        """Keep an entry for the tenant."""
        self._cache.put((self._tenant, *ids), entry)


Texts = InputCache | TenantTexts
