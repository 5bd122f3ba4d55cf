"""A server of ours on a port of its own, in a thread of the test process."""

import contextlib
import threading
import time
from types import SimpleNamespace

import httpx


@contextlib.contextmanager
def running_server(predictor, *, prepare=None, **settings):
    """`url`, `service`, `server` of a server that answers; `prepare(app, service)` may add a page before it starts."""
    from deployment.server.application import build_app
    from deployment.server.uvicorn_server import GracefulServer, bound_socket

    app, service = build_app(predictor, "small", **settings)
    if prepare:
        prepare(app, service)
    server = GracefulServer(app, service)
    listening = bound_socket("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield SimpleNamespace(url=url, service=service, server=server, app=app, thread=thread)
    finally:
        service.stopping = True
        thread.join(timeout=60)
        assert not thread.is_alive()
        service.queue.close()


def post(server, path: str, value=None, **options) -> httpx.Response:
    return httpx.post(server.url + path, json=value, timeout=60, **options)
