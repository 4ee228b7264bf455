"""What an operator has set up at Stripe: the webhook endpoint, made and pinned, and the prices of plans, looked at.

An endpoint without a version follows the account's default, whose fields move; and an endpoint's version can't be
changed. So one of another version is replaced: the new one is made first, then the old one is disabled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from billing.payments.objects import CURRENCY
from billing.payments.stripe.client import API_VERSION
from billing.payments.stripe.signatures import ENDPOINT_EVENTS

if TYPE_CHECKING:
    from billing.payments.stripe.client import StripeCalls


@dataclass(frozen=True, slots=True)
class SyncedEndpoint:
    """The endpoint as it is now. Its `secret` is known only where it was made now."""

    id: str
    done: Literal["created", "updated", "unchanged"]
    disabled: tuple[str, ...] = ()
    secret: str | None = field(default=None, repr=False)


async def sync_endpoint(calls: StripeCalls, url: str, key: str) -> SyncedEndpoint:
    """Bring the endpoint at `url` to our version and events; `key` is a new idempotency key. Raises
    `port.PaymentError`."""
    service = calls.api.webhook_endpoints
    ours = [each for each in await calls.all_of(service.list_async, {}) if each["url"] == url]
    fitting = [each for each in ours if each["api_version"] == API_VERSION]
    others = [each for each in ours if each not in fitting[:1] and each["status"] == "enabled"]
    disabled = tuple(each["id"] for each in others)
    if fitting:
        synced = SyncedEndpoint(fitting[0]["id"], await _update(calls, fitting[0], key), disabled)
    else:
        params = {"url": url, "api_version": API_VERSION, "enabled_events": list(ENDPOINT_EVENTS)}
        made = await calls.write(service.create_async, params=params, key=f"{key}:create")
        synced = SyncedEndpoint(made["id"], "created", disabled, made["secret"])
    for each in disabled:
        await calls.write(service.update_async, each, params={"disabled": True}, key=f"{key}:{each}")
    return synced


async def _update(calls: StripeCalls, endpoint: Mapping[str, Any], key: str) -> Literal["updated", "unchanged"]:
    """Have an endpoint told of all that we act on; what else it is told of stays."""
    told = list(endpoint["enabled_events"])
    missing = [] if told == ["*"] else [each for each in ENDPOINT_EVENTS if each not in told]
    if not missing and endpoint["status"] == "enabled":
        return "unchanged"
    params = {"enabled_events": told + missing, "disabled": False}
    service = calls.api.webhook_endpoints
    await calls.write(service.update_async, endpoint["id"], params=params, key=f"{key}:update")
    return "updated"


async def price_faults(calls: StripeCalls, prices: Mapping[str, int]) -> Sequence[str]:
    """Return what is wrong with plans' prices at Stripe, a sentence each; `prices` are the cents that each is to cost a
    month. Raises `port.PaymentError`."""
    faults = []
    for price_id, cents in prices.items():
        found = await calls.find(calls.api.prices.retrieve_async, price_id)
        if found is None:
            faults.append(f"{price_id}: Stripe has no such price in the mode of this key.")
            continue
        said = (found["currency"], found["unit_amount"], _interval(found), found["active"])
        if said != (CURRENCY, cents, "month", True):
            currency, amount, interval, active = said
            state = "" if active else ", and it is not active"
            faults.append(f"{price_id}: {amount} {currency} a {interval}, not {cents} {CURRENCY} a month{state}.")
    return faults


def _interval(price: Mapping[str, Any]) -> str:
    recurring = price.get("recurring")
    if recurring is None:
        return "payment"
    count = recurring["interval_count"]
    return str(recurring["interval"]) if count == 1 else f"{count} {recurring['interval']}s"
