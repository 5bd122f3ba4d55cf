"""A hub that cannot be reached, or a name that is not there, told within seconds and with a way out."""

from collections.abc import Iterator
from contextlib import contextmanager

from configs.errors import UserError


@contextmanager
def hub_errors(what: str, way_out: str) -> Iterator[None]:
    """Turn what the hub libraries raise while loading `what` into one `UserError`."""
    import httpx2 as httpx
    from huggingface_hub import errors

    yield
