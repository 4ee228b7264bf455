"""Endpoints: where customers, and operators, have notices sent to; what was delivered there, also again by hand.

An endpoint belongs to an account, whose notices it gets, or to the operators (`account_id` None), who get those of all.

WebhookError
+-- EndpointNotFound   none of this owner's, or no delivery of it
+-- EndpointRefused    more than an owner may have, or types that there are none of
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from billing import audit
from billing.database.connection import Row, queries
from billing.errors import MetergateError
from billing.notices.delivery import check_url, new_secret
from billing.notices.formats import Format
from billing.notices.mail_templates import TYPES
from billing.pages import BEFORE_ALL, BadCursor, Page, page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from billing.database.connection import Connection, Database
    from billing.settings import WebhookSettings

ID_PREFIX: Final = "whe_"
# The secret before a rotation signs, too, for as long.
OLD_SECRET_S: Final = 86_400.0
_query = queries("billing.notices")


class WebhookError(MetergateError):
    """What was asked of an endpoint was not done."""


class EndpointNotFound(WebhookError):
    """There is no such endpoint, or delivery."""

    kind = "not_found"


class EndpointRefused(WebhookError):
    """An endpoint can't be as asked."""

    kind = "invalid"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where notices are sent to; `types` None: all. `failing_since`: the first failure since a delivery succeeded."""

    id: str
    account_id: str | None
    url: str
    format: Format
    routing_key: str | None = field(repr=False)
    secret: str = field(repr=False)
    types: tuple[str, ...] | None
    description: str
    created_at: datetime
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notice on its way to an endpoint, and what became of the last try."""

    id: str
    notice_id: str
    type: str
    created_at: datetime
    attempts: int
    next_attempt_at: datetime
    delivered_at: datetime | None
    parked_at: datetime | None
    status: int | None
    error: str | None


class Endpoints:
    """Makes, changes and reads endpoints. Methods raise `DatabaseError`, and `EndpointNotFound` for another owner's."""

    def __init__(self, database: Database, new_id: Callable[[], str], settings: WebhookSettings) -> None:
        self._database, self._new_id, self._settings = database, new_id, settings

    async def create(
        self,
        account_id: str | None,
        url: str,
        types: Sequence[str] | None,
        description: str = "",
        *,
        format: Format = "json",
        routing_key: str | None = None,
        actor: audit.Actor,
    ) -> Endpoint:
        """Make an endpoint, with a new secret. Raises `EndpointRefused` and `DestinationRefused`."""
        check_url(url, private=self._settings.webhook_private_addresses)
        _check_routing_key(format, routing_key)
        subscribed = _checked(types)
        async with self._database.transaction() as connection:
            await connection.execute(_query("endpoints_lock"), account_id)
            if await connection.fetchval(_query("endpoints_count"), account_id) >= self._settings.webhook_endpoints:
                raise EndpointRefused(f"There may be {self._settings.webhook_endpoints} webhook endpoints: delete one.")
            row = await connection.fetchrow(
                _query("endpoints_insert"),
                ID_PREFIX + self._new_id(),
                account_id,
                url,
                format,
                routing_key,
                new_secret(),
                subscribed,
                description,
            )
            made = _endpoint(cast("Row", row))
            await _record(connection, actor, "webhook.create", None, made)
        return made

    async def page(self, account_id: str | None, limit: int, after: str | None = None) -> Page[Endpoint]:
        """Return endpoints, newest first; `after` is the id that ended the page before."""
        rows = await self._database.rows(_query("endpoints_page"), account_id, after or BEFORE_ALL, limit + 1)
        return page_of([_endpoint(row) for row in rows], limit, lambda each: each.id)

    async def failing(self, account_id: str) -> int:
        """Return how many endpoints of an account fail, or were switched off since they did."""
        return int(await self._database.value(_query("endpoints_failing"), account_id))

    async def get(self, endpoint_id: str, account_id: str | None) -> Endpoint:
        """Return an endpoint."""
        return _found(await self._database.row(_query("endpoints_get"), endpoint_id, account_id), endpoint_id)

    async def update(
        self, endpoint_id: str, account_id: str | None, changes: Mapping[str, Any], *, actor: audit.Actor
    ) -> Endpoint:
        """Change `url`, `types`, `description`, `format`, `routing_key`, `enabled`. Enabling forgets failures, and
        a format without a routing key forgets that. Raises as `create`."""
        if "url" in changes:
            check_url(changes["url"], private=self._settings.webhook_private_addresses)
        fields = {name: value for name, value in changes.items() if name != "enabled"}
        if "types" in fields:
            fields["types"] = _checked(fields["types"])
        async with self._database.transaction() as connection:
            before = _found(await connection.fetchrow(_query("endpoints_get"), endpoint_id, account_id), endpoint_id)
            wanted = replace(before, **fields)
            if wanted.format != "pagerduty" and "routing_key" not in fields:
                wanted = replace(wanted, routing_key=None)
            _check_routing_key(wanted.format, wanted.routing_key)
            enabled = changes.get("enabled", before.disabled_at is None)
            row = await connection.fetchrow(
                _query("endpoints_update"),
                endpoint_id,
                account_id,
                wanted.url,
                wanted.types,
                wanted.description,
                wanted.format,
                wanted.routing_key,
                enabled,
            )
            after = _found(row, endpoint_id)
            await _record(connection, actor, "webhook.update", before, after)
        return after

    async def rotate(self, endpoint_id: str, account_id: str | None, *, actor: audit.Actor) -> Endpoint:
        """Give an endpoint a new secret; deliveries are signed by the old one, too, for a day."""
        async with self._database.transaction() as connection:
            query = _query("endpoints_rotate")
            row = await connection.fetchrow(query, endpoint_id, account_id, new_secret(), OLD_SECRET_S)
            after = _found(row, endpoint_id)
            await _record(connection, actor, "webhook.rotate", None, after)
        return after

    async def delete(self, endpoint_id: str, account_id: str | None, *, actor: audit.Actor) -> None:
        """Remove an endpoint, with its deliveries."""
        async with self._database.transaction() as connection:
            before = _found(await connection.fetchrow(_query("endpoints_get"), endpoint_id, account_id), endpoint_id)
            await connection.execute(_query("endpoints_delete"), endpoint_id, account_id)
            await _record(connection, actor, "webhook.delete", before, None)

    async def test(self, endpoint_id: str, account_id: str | None) -> Delivery:
        """Have a notice of the type `test` delivered to one endpoint."""
        delivery_id = await self._database.value(_query("notices_test"), endpoint_id, account_id)
        if delivery_id is None:
            raise _unknown(endpoint_id)
        return await self.delivery(endpoint_id, delivery_id, account_id)

    async def delivery(self, endpoint_id: str, delivery_id: str, account_id: str | None) -> Delivery:
        """Return one delivery to an endpoint."""
        row = await self._database.row(_query("deliveries_get"), delivery_id, endpoint_id, account_id)
        if row is None:
            raise EndpointNotFound(f"There is no delivery {delivery_id!r} to the endpoint {endpoint_id!r}.")
        return _delivery(row)

    async def deliveries(
        self, endpoint_id: str, account_id: str | None, limit: int, after: str | None = None
    ) -> Page[Delivery]:
        """Return deliveries to an endpoint, newest first. Raises `BadCursor`."""
        await self.get(endpoint_id, account_id)
        before = _place(after)
        rows = await self._database.rows(_query("deliveries_page"), endpoint_id, account_id, *before, limit + 1)
        return page_of([_delivery(row) for row in rows], limit, _cursor)

    async def redeliver(self, endpoint_id: str, delivery_id: str, account_id: str | None) -> Delivery:
        """Have a delivery sent again, whatever became of it, with all of its tries."""
        found = await self.delivery(endpoint_id, delivery_id, account_id)
        await self._database.execute(_query("deliveries_again"), found.id)
        return await self.delivery(endpoint_id, delivery_id, account_id)


def _check_routing_key(format: Format, routing_key: str | None) -> None:
    """Raises `EndpointRefused` for a format that lacks a routing key, or has no use for one."""
    if format == "pagerduty" and routing_key is None:
        raise EndpointRefused("PagerDuty takes events with the routing_key of one of its services (Events API v2).")
    if format != "pagerduty" and routing_key is not None:
        raise EndpointRefused("routing_key goes with the format pagerduty.")


def _checked(types: Sequence[str] | None) -> tuple[str, ...] | None:
    unknown = sorted(set(types or ()) - set(TYPES))
    if unknown:
        raise EndpointRefused(f"There are no notices of the type {unknown[0]!r}: take some of {', '.join(TYPES)}.")
    return None if types is None else tuple(sorted(set(types)))


def _endpoint(row: Row) -> Endpoint:
    types = row["types"]
    fields = {name: row[name] for name in Endpoint.__dataclass_fields__ if name != "types"}
    return Endpoint(types=None if types is None else tuple(types), **fields)


def _delivery(row: Row) -> Delivery:
    return Delivery(**{name: row[name] for name in Delivery.__dataclass_fields__})


def _found(row: Row | None, endpoint_id: str) -> Endpoint:
    if row is None:
        raise _unknown(endpoint_id)
    return _endpoint(row)


def _unknown(endpoint_id: str) -> EndpointNotFound:
    return EndpointNotFound(f"There is no webhook endpoint {endpoint_id!r}.")


def _cursor(delivery: Delivery) -> str:
    return f"{int(delivery.created_at.timestamp() * 1_000_000)}.{delivery.id}"


def _place(after: str | None) -> tuple[datetime | None, str]:
    if after is None:
        return None, ""
    micros, _, delivery_id = after.partition(".")
    if not (micros.isascii() and micros.isdigit() and len(micros) <= 16):
        raise BadCursor("This cursor is not from this list.")
    try:
        seconds, rest = divmod(int(micros), 1_000_000)
        at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
    except (ValueError, OverflowError) as error:
        raise BadCursor("This cursor is not from this list.") from error
    return at, delivery_id


async def _record(
    connection: Connection, actor: audit.Actor, action: str, before: Endpoint | None, after: Endpoint | None
) -> None:
    """Write a row of the audit log, without the secret."""
    about = after or before
    assert about is not None  # noqa: S101  (one of them is)
    change = (_shown(before), _shown(after))
    await audit.record(connection, actor, action, about.id, *change, account_id=about.account_id)


def _shown(endpoint: Endpoint | None) -> dict[str, object] | None:
    if endpoint is None:
        return None
    types = None if endpoint.types is None else list(endpoint.types)
    return {"url": endpoint.url, "format": endpoint.format, "types": types, "enabled": endpoint.disabled_at is None}
