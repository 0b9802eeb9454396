"""Access to the server: keys, hosts, origins, rates, headers.

`Guard` stands in front of every route, so a new route is protected without a line of its own.
"""

import asyncio
import hashlib
import hmac
import os
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from overture.core.config import validated
from overture.core.errors import ConfigError
from overture.core.files import exclusive, write_atomic
from overture.core.records.base import Record, read_record
from overture.core.records.serving import Request, Usage
from overture.server.errors import Refused

if TYPE_CHECKING:
    from overture.server.sessions import Sessions

MAX_BODY_BYTES, MAX_UPLOAD_BYTES = 1 << 20, 64 << 20
"""Bytes of a request's body, and of an uploaded prompt's."""
OPEN_PATHS = frozenset(
    {"/health", "/enter", "/static/pages.css", "/static/pages.js", "/static/htmx.js", "/static/icon.svg"}
)
"""The only paths that need no key: a sign of life, the page that takes a key, and what it looks like."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_REQUEST_S = 600.0
_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Key(Record):
    """A key that a client sends; only its digest is kept."""

    name: str = Field(
        description="the tenant: names the client in logs and limits", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$"
    )
    scope: Literal["predict", "admin"] = Field("predict", description="admin may also change prompts")
    sha256: str = Field("", description="SHA-256 of the key")
    prompts: tuple[str, ...] = Field(("*",), description="names of prompts it may use; * stands for any characters")

    def may_use(self, name: str) -> bool:
        """Whether a prompt of this name exists for the key."""
        return "*" in self.prompts or any(fnmatchcase(name, pattern) for pattern in self.prompts)


class KeyFile(Record):
    """The keys of a server, as they lie on the disk."""

    keys: tuple[Key, ...] = Field((), description="all keys")


LOCAL = Key(name="local", scope="admin")
"""The key of a server without keys: it is bound to the loopback interface."""
ANYONE = Key(name="anyone", prompts=())
"""The key of requests that need none, on a server with keys."""


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file.

    Raises:
        ConfigError: the file is missing or empty, or others than its owner may read it.
        StoreError: it is damaged.
    """
    key_file = read_record(KeyFile, path)
    if key_file is None or not key_file.keys:
        fix = f"make one with `overture serve --key-file {path} --new-key NAME`"
        raise ConfigError("there are no keys in the key file", where=str(path), fix=fix)
    if os.stat(path).st_mode & 0o077:
        raise ConfigError(
            "other users may read the key file",
            where=str(path),
            got=f"mode {os.stat(path).st_mode & 0o777:o}",
            wanted="mode 600",
            fix=f"chmod 600 {path}",
        )
    return key_file.keys


def add_key(path: Path, name: str, scope: Literal["predict", "admin"]) -> str:
    """Add a key to a file, which is made if there is none; another key of the name is replaced.

    Returns:
        The key; it is kept nowhere.

    Raises:
        ConfigError: the name is wrong.
        StoreError: the file is damaged, or another process writes it.
    """
    secret = f"ov-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    key = validated(Key, {"name": name, "scope": scope, "sha256": digest}, "the new key")
    with exclusive(path.with_name(f".{path.name}.lock"), "to the key file"):
        key_file = read_record(KeyFile, path) or KeyFile()
        file = KeyFile(keys=(*(other for other in key_file.keys if other.name != name), key))
        previous = os.umask(0o077)
        try:
            write_atomic(path, file.model_dump_json(indent=1) + "\n")
        finally:
            os.umask(previous)
    return secret


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_bind(host: str, keys: tuple[Key, ...]) -> None:
    """Refuse to listen to other machines without a key.

    Raises:
        ConfigError: the host is not the loopback interface, and there are no keys.
    """
    if not keys and not is_loopback(host):
        raise ConfigError(
            "a server that other machines can reach needs a key",
            where="--host",
            got=host,
            wanted="127.0.0.1, or a key file",
            fix="overture serve --key-file keys.json --new-key NAME, then add --key-file keys.json",
        )


class Access(Record):
    """Limits of access: names, port, keys and rates."""

    hosts: tuple[str, ...] = Field(LOOPBACK, description="names under which clients reach the server")
    port: int = Field(8000, description="the server's port, part of the origins of its own pages")
    keys: tuple[Key, ...] = Field((), description="keys; without any, every client is local and an admin")
    rate_per_s: float = Field(100.0, gt=0, description="requests a second of one key, on average")
    burst: int = Field(200, ge=1, description="requests of one key at once")
    max_request_s: float = Field(MAX_REQUEST_S, gt=0, description="longest time of one request, its stream included")

    @property
    def origins(self) -> frozenset[str]:
        """Origins of pages that may ask: the server's own."""
        names = [f"[{host}]" if ":" in host else host for host in self.hosts]
        return frozenset(f"{scheme}://{name}:{self.port}" for name in names for scheme in ("http", "https"))

    def key_of(self, secret: str) -> Key | None:
        """The key with this secret; every key is compared, so that the time tells nothing."""
        digest = hashlib.sha256(secret.strip().encode(errors="surrogateescape")).hexdigest()
        matching = [key for key in self.keys if hmac.compare_digest(key.sha256, digest)]
        return matching[0] if matching else None


@dataclass(slots=True)
class Visit:
    """One request: who asks, and what the log will say of it; a route fills in the prompt and the tokens."""

    key: Key
    path: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.monotonic)
    prompts: tuple[str, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    status: int = 0
    max_s: float = MAX_REQUEST_S

    @property
    def left_s(self) -> float:
        """Seconds until the request is given up."""
        return max(0.001, self.max_s - (time.monotonic() - self.started))

    def request(self, part: object, **fields: Any) -> Request:
        """A request to the engine: named after this one and its part, of its key, with the time that is left.

        Args:
            part: tells it from the other requests of this visit.
            fields: what is asked.
        """
        return Request(id=f"{self.id}-{part}", tenant=self.key.name, deadline_s=self.left_s, **fields)

    def count(self, usage: Usage) -> None:
        """Add the tokens of an answer."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens


@dataclass(slots=True)
class _Bucket:
    """How many requests a key may send now."""

    level: float
    updated: float


class Guard:
    """Middleware that lets a request through, or answers it with an error.

    Args:
        app: the application behind it.
        access: who may ask.
        finished: called with each request after its answer.
        sessions: browsers that signed in; without them only keys count.
        refuse: answers a request that is not let through.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        finished: Callable[[Visit], None] = lambda visit: None,
        sessions: "Sessions | None" = None,
        refuse: Callable[[Refused, Scope, Receive, Send], Awaitable[None]] = lambda error, *ends: error.response()(
            *ends
        ),
    ) -> None:
        self.app, self.access, self.finished = app, access, finished
        self.sessions, self.refuse = sessions, refuse
        self._buckets: dict[str, _Bucket] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application answer it; meets ASGI."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = Visit(ANYONE if self.access.keys else LOCAL, scope["path"], max_s=self.access.max_request_s)
        scope.setdefault("state", {})["visit"] = visit

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers["x-request-id"] = visit.id
            await send(message)

        try:
            visit.key = self._admitted(scope)
            _check_size(scope)
            # A client that does not read its stream would hold a slot for ever.
            async with asyncio.timeout(self.access.max_request_s):
                await self.app(scope, receive, send_guarded)
        except Refused as error:
            await self.refuse(error, scope, receive, send_guarded)
        except TimeoutError:
            if visit.status:
                raise
            late = Refused(504, "timeout", "the request took too long", wanted=f"{self.access.max_request_s:g} s")
            await self.refuse(late, scope, receive, send_guarded)
        finally:
            self.finished(visit)

    def _admitted(self, scope: Scope) -> Key:
        headers = Headers(scope=scope)
        self._check_host(headers.get("host", ""))
        self._check_origin(headers)
        if not self.access.keys:
            return LOCAL
        if scope["path"] in OPEN_PATHS:
            if scope["path"] == "/enter":
                # Keys are guessed here, if anywhere: all who try share one budget.
                self._take(ANYONE.name)
            return ANYONE
        key = self._key_of_browser(scope["method"], headers) or self._key_of(headers.get("authorization", ""))
        self._take(key.name)
        return key

    def _key_of_browser(self, method: str, headers: Headers) -> Key | None:
        if self.sessions is None or "authorization" in headers or "cookie" not in headers:
            return None
        if method not in ("GET", "HEAD") and "origin" not in headers and "sec-fetch-site" not in headers:
            # A browser names the page that posts; what does not is not the browser that has the cookie.
            what = f"a {method} request with a cookie needs an Origin header"
            raise Refused(403, "origin_not_allowed", what, where="Origin")
        return self.sessions.key_of(headers["cookie"])

    def _check_host(self, host: str) -> None:
        # Against the configured names only: a rebound name would equal its own Origin.
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name.lower() not in self.access.hosts:
            wanted = ", ".join(self.access.hosts)
            what, fix = "the server is not known by this name", "start it with --allowed-host NAME"
            raise Refused(403, "host_not_allowed", what, where="Host", got=host, wanted=wanted, fix=fix)

    def _check_origin(self, headers: Headers) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        is_foreign = origin is not None and origin.lower() not in self.access.origins
        if is_foreign or (origin is None and site not in (None, "same-origin", "none")):
            what = "pages of other sites may not ask this server"
            raise Refused(403, "origin_not_allowed", what, where="Origin", got=origin or f"Sec-Fetch-Site: {site}")

    def _key_of(self, authorization: str) -> Key:
        scheme, _, secret = authorization.partition(" ")
        key = self.access.key_of(secret)
        if scheme.lower() != "bearer" or key is None:
            what = "this is not a key of the server" if authorization else "this server needs a key"
            raise Refused(401, "invalid_api_key", what, where="Authorization", wanted="Bearer KEY")
        return key

    def _take(self, name: str) -> None:
        now, rate = time.monotonic(), self.access.rate_per_s
        bucket = self._buckets.setdefault(name, _Bucket(self.access.burst, now))
        bucket.level = min(self.access.burst, bucket.level + (now - bucket.updated) * rate)
        bucket.updated = now
        if bucket.level < 1:
            wait_s = (1 - bucket.level) / rate
            what, wanted = "the key sends too many requests", f"at most {rate:g} a second"
            raise Refused(429, "rate_limit_exceeded", what, where="Authorization", wanted=wanted, retry_after_s=wait_s)
        bucket.level -= 1


def _check_size(scope: Scope) -> None:
    # The framework counts what really comes; this refuses at once what is announced.
    size = Headers(scope=scope).get("content-length", "0")
    most = MAX_UPLOAD_BYTES if scope["method"] == "PUT" else MAX_BODY_BYTES
    if not size.isdecimal() or int(size) > most:
        what = "the body is too large"
        raise Refused(413, "body_too_large", what, where="body", got=f"{size[:20]} bytes", wanted=f"at most {most}")
