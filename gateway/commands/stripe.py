"""`metergate operator stripe`: `sync` sets Stripe up from here, with STRIPE_API_KEY alone; the others ask a gateway for
events of the payment provider, and for the comparison with it."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.api.operations import PaymentOperations
from billing.cli import REFUSED, UNREACHABLE, USAGE, CommandFailed, Connect, Output, Shown, Table, add_command, group
from billing.cli.calls import add_calls, argument, command_of, option
from billing.cli.options import moment
from billing.cli.output import columns, says

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.payments.stripe.provider import StripeCalls, SyncedEndpoint
    from billing.schemas.payments import ComparisonShape

WEBHOOK_PATH: Final = "/api/webhooks/stripe"
FILE_MODE: Final = 0o600
# The time between looks at a running comparison.
LOOK_EVERY_S: Final = 0.2

Url = Annotated[str, typer.Argument(metavar="URL", help="The gateway's public address.", show_default=False)]
SecretFile = Annotated[
    Path,
    typer.Option(metavar="FILE", help="Where a new endpoint's signing secret is written to; it must not exist."),
]


def add_stripe(app: typer.Typer, connect: Connect) -> None:
    """Add the group `stripe`."""
    stripe = group("Stripe: its endpoint, its events, differences.")
    add_command(stripe, "sync", sync)
    events = command_of(
        PaymentOperations.payment_events,
        "List events of the payment provider. Those that came last first.",
        columns("received_at", ("event", "id"), "type", "object_id", "state", ("tries", "attempts"), "error"),
        {
            "state": option("STATE", "waiting, done, ignored or parked."),
        },
    )
    replay = command_of(
        PaymentOperations.replay_payment_event,
        "Process an event again; nothing is credited twice.",
        says("{id} ({type}) is {state}: a gateway looks into it."),
        {
            "event_id": argument("The event's id, evt_..."),
        },
    )
    add_calls(stripe, connect, events=events, replay=replay, reconcile=reconcile)
    app.add_typer(stripe, name="stripe")


async def sync(output: Output, url: Url, secret_file: SecretFile = Path("stripe-webhook-secret")) -> None:
    """Make the webhook endpoint at Stripe, or update it. Looks at the prices of plans.

    Reads STRIPE_API_KEY and STRIPE_PRICE_...; nothing else is needed, and no gateway has to run."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise CommandFailed("URL is the gateway's public address, such as https://gateway.example.com.", USAGE)
    if secret_file.exists():
        raise CommandFailed(f"{secret_file} exists: name another file with --secret-file, or remove it.", USAGE)
    address = url.rstrip("/") + WEBHOOK_PATH
    synced, faults = await _synced(address)
    lines = [f"The endpoint {synced.id} at {address}: {synced.done}."]
    lines += [f"The endpoint {each} of another version is disabled now." for each in synced.disabled]
    if synced.secret is None:
        lines.append("Its signing secret is what it was: Stripe's dashboard shows it.")
    else:
        _write(secret_file, synced.secret)
        lines.append(f"Its signing secret is in {secret_file}: put it into STRIPE_WEBHOOK_SECRET, and remove the file.")
    lines += faults
    data = {"endpoint": synced.id, "url": address, "done": synced.done, "disabled": list(synced.disabled)}
    output.show(Shown({**data, "faults": faults}, ("\n".join(lines),)))
    if faults:
        raise CommandFailed("Prices of plans are not what they should be: fix them at Stripe.", REFUSED)


async def _synced(address: str) -> tuple["SyncedEndpoint", list[str]]:
    from ulid import ULID

    from billing.payments.port import PaymentError, PaymentProviderUnavailable
    from billing.payments.stripe.provider import API_BASE, StripeAccess, StripeCalls, sync_endpoint
    from gateway.commands.data_folder import explained_misuse
    from gateway.config.environment import command_environment

    with explained_misuse():
        environment = command_environment(os.environ)
    if environment.stripe_api_key is None:
        raise CommandFailed("Set STRIPE_API_KEY: a key that may write webhook endpoints and read prices.", USAGE)
    try:
        access = StripeAccess(environment.stripe_api_key.reveal(), environment.stripe_api_base or API_BASE)
    except ValueError as error:
        raise CommandFailed(f"{error}.", USAGE) from error
    calls = StripeCalls(access)
    try:
        return await sync_endpoint(calls, address, f"endpoint:{ULID()}"), await _price_faults(calls)
    except PaymentProviderUnavailable as error:
        raise CommandFailed(str(error), UNREACHABLE) from error
    except PaymentError as error:
        raise CommandFailed(str(error), REFUSED) from error
    finally:
        await calls.close()


async def _price_faults(calls: "StripeCalls") -> list[str]:
    """Return what is wrong with the prices of the plans in the configuration's files."""
    from billing.money import NANO_PER_CENT
    from billing.payments.stripe.provider import price_faults
    from gateway.commands.data_folder import explained_misuse
    from gateway.config.settings import load_settings

    with explained_misuse():
        plans = load_settings(os.environ, mode="command").plans.values()
    prices = {plan.stripe_price: plan.price_nano // NANO_PER_CENT for plan in plans if plan.stripe_price is not None}
    return list(await price_faults(calls, prices))


def _write(file: Path, secret: str) -> None:
    """Write a secret to a new file that nobody else may read."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise CommandFailed(f"{file} can't be written: {error.strerror}. The endpoint is made.") from error
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secret + "\n")


async def reconcile(
    client: "BillingCalls",
    since: Annotated[str | None, moment("Compare all that was made since: a time, a day, or 7d, 24h.")] = None,
) -> Shown:
    """Show how the provider's payments differ from ours. With --since they are compared again, for up to --timeout."""
    import asyncio

    if since is None:
        found = await client.payment_comparison()
    else:
        found = await client.compare_payments(since=since)
        give_up = time.monotonic() + client.timeout_s
        while (found.asked_since is not None or found.ended_at is None) and time.monotonic() < give_up:
            await asyncio.sleep(LOOK_EVERY_S)
            found = await client.payment_comparison()
        if found.asked_since is not None:
            text = f"All since {found.asked_since} is still to be compared: this command without --since shows it then."
            return Shown(found.received, (text,))
    return Shown(found.received, (_standing(found), *_differences(found)))


def _standing(found: "ComparisonShape") -> str:
    if found.began_at is None:
        return f"Nothing was compared with {found.provider} yet."
    if found.ended_at is None:
        return f"A comparison with {found.provider} since {found.since} runs since {found.began_at}, or was broken off."
    ended = f"{found.compared} objects since {found.since} were compared with {found.provider} until {found.ended_at}"
    return f"{ended}; {len(found.differences)} differ." if found.error is None else f"{ended}, then: {found.error}"


def _differences(found: "ComparisonShape") -> tuple[Table, ...]:
    headers = ("object", "id", "account", "order", "difference", "found")
    rows = [
        (
            each.object,
            each.object_id,
            each.account_id or "-",
            each.order_id or "-",
            each.difference,
            each.found_at or "-",
        )
        for each in found.differences
    ]
    return (Table(headers, rows),) if rows else ()
