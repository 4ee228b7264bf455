"""Who asks: what `billing` says of a request's key, as the refusals of the proxy and of the endpoints."""

from collections.abc import Iterator
from contextlib import contextmanager

from multidict import MultiMapping

from billing.attempts import TooManyAttempts
from billing.keys.presented import DifferentKeys, presented_key
from gateway.server import refusals
from gateway.server.refusals import Refuse


@contextmanager
def attempts_refused() -> Iterator[None]:
    """Raises `Refuse` where too many wrong keys have been shown."""
    try:
        yield
    except TooManyAttempts as error:
        raise Refuse(refusals.too_many_attempts(error)) from error


def shown_key(headers: MultiMapping[str]) -> str | None:
    """The API key that a request presents, None without one. Raises `Refuse` where there are two that differ."""
    try:
        return presented_key(headers)
    except DifferentKeys as error:
        raise Refuse(refusals.different_keys(error)) from error
