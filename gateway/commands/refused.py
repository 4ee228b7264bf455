"""What `metergate explain` says of a request that was refused."""

from collections.abc import Iterator, Mapping
from typing import Final

from billing.cli import Shown, Table
from billing.event_shapes import refusal_shape
from billing.holds.redis import RedisClient
from billing.holds.redis.keyspace import Keyspace
from billing.refused import RefusedRequest, RefusedRequests, RefusedRules

MOST_KEPT_S: Final = 31 * 86_400.0
"""The longest that `refusals_kept_s` can be: what is there is shown."""


async def find_refused(redis_url: str, request_id: str) -> RefusedRequest | None:
    """The refusal, if it is still kept. Raises `RedisError`."""
    link = RedisClient(redis_url)
    try:
        return await RefusedRequests(link, Keyspace(), RefusedRules(age_s=MOST_KEPT_S)).find(request_id)
    finally:
        await link.close()


def shown_refused(refused: RefusedRequest) -> Shown:
    """When, why, and what was missing."""
    shape = refusal_shape(refused)
    rows = [(name.replace("_", " "), _text(value)) for name, value in shape.items() if name != "details"]
    return Shown(shape, (f"{refused.id} was refused; nothing was charged.", Table((), [*rows, *_details(refused)])))


def _details(refused: RefusedRequest) -> Iterator[tuple[str, str]]:
    for name, value in refused.details.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}: {field.replace('_', ' ')}", _text(each)) for field, each in value.items())
        else:
            yield name.replace("_", " "), _text(value)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
