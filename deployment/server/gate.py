"""The gate before every request: key, end of the server, size and time of the body, counting, logging.

It stands before the page too, whose files, uploads and events are requests like any other.
"""

import asyncio
import base64
import binascii
import hmac
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from deployment.server.metrics import Metrics
from deployment.server.schemas import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

logger = logging.getLogger("deployment.server")
API_PATHS = frozenset({"/classify", "/predict", "/info", "/metrics", "/health", "/docs", "/openapi.json"})
OPEN_PATHS = frozenset({"/health"})  # for whoever watches the server; everything else needs the key
PAGE_UPLOADS = "/gradio_api/upload"
# Time for a client to send its whole body, in seconds; a file of the page's may take longer.
BODY_SECONDS, UPLOAD_SECONDS = 30.0, 600.0


@dataclass
class ServiceState:
    """A running server: its limits, its key (None: open to all who reach it), and what is under way."""

    metrics: Metrics
    limits: Limits
    api_key: str | None = None
    stopping: bool = False
    in_flight: int = 0  # requests of the API; the page's event streams last as long as the page is open


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Callable, state: ServiceState):
        self.app, self.state = app, state

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in API_PATHS else "page"
        began, status = time.perf_counter(), 499  # the client has gone before there was an answer

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.state.in_flight += path != "page"
        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self.app(scope, self._limited(scope, receive), noting_status)
            else:
                await refusal(scope, receive, noting_status)
        except Exception as error:
            log_failure(error)
            if status == 499:
                await answer_error(500, "服务器内部出错，已记在它的日志里")(scope, receive, noting_status)
        finally:
            self.state.in_flight -= path != "page"
            seconds = time.perf_counter() - began
            self.state.metrics.observe_request(path, status, seconds)
            if path != "page":
                logger.info("%s %s %s %.1f ms", scope["method"], path, status, 1000 * seconds)

    def _refusal(self, scope: MutableMapping[str, Any]) -> JSONResponse | None:
        """The answer to a request that may not pass."""
        path, key = scope["path"], self.state.api_key
        if key is not None and path not in OPEN_PATHS and not has_key(Headers(scope=scope).get("authorization"), key):
            # A browser asks for the key by itself; whatever stands in the field for a name is not looked at.
            scheme = "Bearer" if path in API_PATHS - {"/docs", "/openapi.json"} else 'Basic realm="API key"'
            return answer_error(401, "需要密钥：Authorization: Bearer 密钥", {"WWW-Authenticate": scheme})
        if self.state.stopping:
            return answer_error(503, "服务正在停止", {"Retry-After": "10", "Connection": "close"})
        return None

    def _limited(self, scope: MutableMapping[str, Any], receive: Receive) -> Receive:
        """`receive` that counts the body while it comes: 413 where it is too large, 408 where it takes too long."""
        upload = scope["path"].startswith(PAGE_UPLOADS)
        most = self.state.limits.upload_bytes if upload else self.state.limits.body_bytes
        deadline = time.monotonic() + (UPLOAD_SECONDS if upload else BODY_SECONDS)
        size, whole = 0, False

        async def limited() -> Message:
            nonlocal size, whole
            if whole:  # now only the end of the connection can come
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise HTTPException(408, "请求体没有按时到齐", {"Connection": "close"}) from None
            size += len(message.get("body", b""))
            if size > most:
                raise HTTPException(413, f"请求体太大，最多 {most:,} 字节")
            whole = not message.get("more_body", False)
            return message

        return limited


def has_key(authorization: str | None, key: str) -> bool:
    """True for `Bearer KEY`, and for `Basic` with the key as its password, which is what browsers send."""
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode("utf-8", "surrogateescape"), key.encode("utf-8"))


def answer_error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """One line of JSON, `{"error": message}`."""
    return JSONResponse({"error": message}, status, headers)


def log_failure(error: BaseException) -> None:
    """Log where an error of our own came from, without its message, which may quote a review."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("内部错误 %s\n%s", type(error).__name__, frames)
