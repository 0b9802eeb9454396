"""Signed-in browsers: a link that works once, or a key, becomes a cookie that only the server can read."""

import hashlib
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple

from overture.server.security import Key

LINK_S, SESSION_S = 3600.0, 12 * 3600.0
"""Seconds that a start link and a browser's session are good for."""
_MAX_SESSIONS = 1000


class _Holder(NamedTuple):
    """A key, and the moment from which a secret does not stand for it any more."""

    key: Key
    ends: float


class Sessions:
    """Which key a browser has. Secrets are kept as digests, in memory: a restarted server knows none of them.

    Args:
        port: the server's; part of the cookie's name, for browsers send cookies to all ports of a host.
    """

    def __init__(self, port: int = 8000) -> None:
        self.cookie = f"overture-{port}"
        self._links: dict[str, _Holder] = {}
        self._open: dict[str, _Holder] = {}

    def link(self, key: Key) -> str:
        """A secret for a start link; it works once, for an hour."""
        return _new_secret(self._links, key, LINK_S)

    def entered(self, secret: str) -> Key | None:
        """The key of a start link, which is used up by this; None of an unknown or late one."""
        holder = self._links.pop(_digest(secret), None)
        return holder.key if holder and holder.ends > time.monotonic() else None

    def opened(self, key: Key) -> str:
        """The value of a `Set-Cookie` header that makes a browser stand for a key."""
        value = _new_secret(self._open, key, SESSION_S)
        return f"{self.cookie}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={SESSION_S:.0f}"

    def closed(self, cookies: str) -> str:
        """End a browser's session; the value of a `Set-Cookie` header that makes it forget the cookie."""
        self._open.pop(_digest(self._secret(cookies)), None)
        return f"{self.cookie}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"

    def key_of(self, cookies: str) -> Key | None:
        """The key that a `Cookie` header stands for."""
        # Looked up by digest, so the time of the look-up tells nothing about a secret.
        holder = self._open.get(_digest(self._secret(cookies)))
        return holder.key if holder and holder.ends > time.monotonic() else None

    def _secret(self, cookies: str) -> str:
        try:
            morsel = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return ""
        return morsel.value if morsel else ""


def _new_secret(holders: dict[str, _Holder], key: Key, seconds: float) -> str:
    now = time.monotonic()
    for digest in [digest for digest, holder in holders.items() if holder.ends <= now]:
        del holders[digest]
    while len(holders) >= _MAX_SESSIONS:
        del holders[next(iter(holders))]
    secret = secrets.token_urlsafe(32)
    holders[_digest(secret)] = _Holder(key, now + seconds)
    return secret


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()
