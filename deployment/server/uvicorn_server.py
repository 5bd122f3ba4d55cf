"""uvicorn with two habits of ours: it stops in good order, and it waits for nobody's request headers for ever."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from deployment.server.gate import ServiceState
from runtime.errors import UserError

# Time for a client to send the headers of its next request once it has begun, or has just connected, in seconds.
HEADER_SECONDS = 20.0
# At the end, open event streams of the page are cut off after this time.
STREAM_SECONDS = 2


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which no whole request arrives; uvicorn itself only minds idle ones."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._close_without_request, self.cycle)

    def _close_without_request(self, latest: Any) -> None:
        self._timer = None
        if self.cycle is latest and not self.transport.is_closing():
            self.transport.close()


class GracefulServer(uvicorn.Server):
    """After a first Ctrl-C or SIGTERM new requests get 503, those taken are finished; a second one ends at once."""

    def __init__(self, app: Callable, state: ServiceState, announcement: str | None = None):
        """`announcement` is printed when the server can be reached."""
        super().__init__(
            uvicorn.Config(
                app,
                http=PatientProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STREAM_SECONDS,
            )
        )
        self.state, self.announcement = state, announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        if self.announcement:
            print(self.announcement, flush=True)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Note the signal; `on_tick` does the rest."""
        if self.state.stopping:
            os._exit(128 + sig)
        self.state.stopping = True
        os.write(
            2, "\n收到停止信号：做完已经接受的请求就停（再来一次则立即结束）\n".encode(sys.stderr.encoding, "replace")
        )

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: True when it is time to end."""
        if self.state.stopping and not self.state.in_flight:
            self.should_exit = True
        return await super().on_tick(counter)


def bound_socket(host: str, port: int) -> socket.socket:
    """A TCP socket that will listen there; a `UserError` where that cannot be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # on Windows this would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"不能在 {host}:{port} 上监听（{reason}）；换一个 --port，或检查 --host") from None
    return bound
