"""Listening: a socket that is free or refused clearly, and connections that must bring a whole request in time."""

import asyncio
import errno
import socket
from typing import Any

import h11
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from overture.core.errors import ConfigError

MAX_CONNECTIONS = 1000
_BYTES_A_SECOND = 32 << 10


class TimedH11(H11Protocol):
    """Closes a connection whose request is not there as a whole in time.

    A body may take longer than `read_timeout_s` as long as it comes with 32 KiB a second.
    """

    read_timeout_s = 8.0
    _deadline: asyncio.TimerHandle | None = None
    _num_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request from now on."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Read on, and expect the rest of a request that has begun."""
        self._num_bytes += len(data)
        if self._deadline is None and self.conn.their_state is h11.IDLE:
            self._expect()
        super().data_received(data)

    def handle_events(self) -> None:
        """A request that is whole has no deadline any more."""
        super().handle_events()
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._forget()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; a request that it came behind, or within, is given up and not answered as well."""
        has_begun = False
        if self.cycle is not None and not self.cycle.response_complete:
            has_begun = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if has_begun:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def shutdown(self) -> None:
        """The server stops: pages that follow something end, all other requests are answered."""
        if stopping := self.app_state.get("stopping"):
            stopping.set()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._num_bytes = 0
        self._deadline = self.loop.call_later(self.read_timeout_s, self._late)

    def _late(self) -> None:
        self._deadline = None
        is_body = self.conn.their_state is h11.SEND_BODY
        if is_body and self._num_bytes >= _BYTES_A_SECOND * self.read_timeout_s:
            self._expect()
        else:
            self.transport.close()

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening address.

    Args:
        host: address or name.
        port: its number; 0 for any that is free.

    Raises:
        ConfigError: another program listens there, the port is reserved, or the host is not this machine's.
    """
    bound: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # Now, so that a second server cannot take the port before the first has loaded its model.
        bound.listen(2048)
    except (OSError, UnicodeError) as error:
        if bound is not None:
            bound.close()
        number = getattr(error, "errno", None)
        what = {errno.EADDRINUSE: "another program listens on this port", errno.EACCES: "this port is reserved"}
        fix = "name another one with --port" if number in what else "name an address of this machine with --host"
        raise ConfigError(
            what.get(number or 0, "the server cannot listen there"), where=f"{host}:{port}", got=str(error), fix=fix
        ) from error
    return bound


def uvicorn_server(app: Any, read_timeout_s: float = TimedH11.read_timeout_s) -> Server:
    """A server of an application, with limits on connections and requests in progress.

    Args:
        app: an ASGI application.
        read_timeout_s: seconds within which a request must be there.
    """
    protocol = type("TimedH11", (TimedH11,), {"read_timeout_s": read_timeout_s})
    return Server(
        Config(
            app,
            http=protocol,
            ws="none",
            lifespan="on",
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=30,
        )
    )
