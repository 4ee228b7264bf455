"""`metergate requests`: one's own last requests, metered or refused; and how one came to its charge, for `explain`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec import UNSET

from billing.cli.options import FIRST_PAGE, Paging
from billing.cli.output import CommandFailed, Shown, Table, listed
from billing.cli.people import add_person_calls
from billing.cli.session import FindSession

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.system import RefusedShape
    from billing.schemas.usage import ExplainedEventShape, LineShape

# Columns of a line of the arithmetic.
_CLASS, _QUANTITY = 14, 12


def add_requests(app: typer.Typer, find: FindSession) -> None:
    """Add `requests`."""
    add_person_calls(app, find, requests=requests)


async def requests(
    client: "BillingCalls",
    refused: Annotated[bool, typer.Option("--refused", help="Those that were refused, with the reason.")] = False,
    key: Annotated[str | None, typer.Option(metavar="KEY_ID", help="Of one key.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Of one model, as it was asked for.")] = None,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List your account's last requests, newest first; `metergate explain` says more of one."""
    if refused:
        if model is not None or page.cursor is not None:
            raise typer.BadParameter("goes with --key and --limit alone", param_hint="--refused")
        return listed(
            await client.own_refusals(key_id=key, limit=page.limit),
            ("time", "created_at"),
            ("request", "id"),
            "key_id",
            "model",
            "code",
        )
    return listed(
        await client.usage_events(key_id=key, model=model, **page.asked),
        ("time", "created_at"),
        ("request", "id"),
        "key_id",
        "model",
        "status",
        ("tokens", "total_tokens"),
        "charge_usd",
    )


async def explained(client: "BillingCalls", request_id: str) -> Shown:
    """Return how a request came to its charge; of one that was refused, what it lacked. Raises `CommandFailed` where it
    is none of the account's, and what the client raises."""
    from billing.client.errors import Refused

    try:
        return shown_event(await client.usage_event(request_id))
    except Refused as error:
        if error.code != "not_found":
            raise
    try:
        return shown_refusal(await client.own_refusal(request_id))
    except Refused as error:
        if error.code != "not_found":
            raise
    raise CommandFailed(
        f"Your account has no request {request_id!r}, and no refusal of it is kept: give the x-request-id of its "
        "answer."
    )


def shown_event(event: "ExplainedEventShape") -> Shown:
    """Return a request with the lines of its charge, as a command shows it; what it cost at the provider stands there
    where the gateway tells."""
    rows = [
        ("when", event.created_at),
        ("account", f"{event.account_id}, key {event.key_id}" + (f", user {event.user_id}" if event.user_id else "")),
        ("model", f"{event.model}, served by {event.provider} as {event.provider_model}"),
        ("outcome", f"{event.outcome}, HTTP {event.status}" + (", counts estimated" if event.estimated else "")),
    ]
    if event.multiplier is not None:
        rows.append(("variant", f"{event.multiplier}, each line times {event.multiplier_factor}"))
    if isinstance(event.price_id, str):
        rows.append(("price", event.price_id or "none"))
    rows += [("", _arithmetic(line)) for line in event.lines]
    if isinstance(event.cost_usd, str):
        rows.append(("cost", f"{event.cost_usd} USD: the sum, rounded up to 0.000000001"))
        rows.append(("charge", f"{event.charge_usd} USD: with a markup of {event.markup_percent} %"))
    else:
        how = "the sum, rounded up to 0.000000001" if event.lines else "not made from these counts"
        rows.append(("charge", f"{event.charge_usd} USD: {how}"))
    if event.note:
        rows.append(("note", event.note))
    return Shown(event.received, (f"Request {event.id}", Table((), rows)))


def _arithmetic(line: "LineShape") -> str:
    prices = (
        (line.price_usd_per_million, "a million"),
        (line.price_usd_per_hour, "an hour"),
        (line.price_usd, "a second" if line.price_class == "second" else "each"),
    )
    price = next(f"{usd} USD {per}" for usd, per in prices if isinstance(usd, str))
    text = f"{line.price_class:<{_CLASS}} {line.quantity:>{_QUANTITY}} at {price} = {line.amount_usd} USD"
    return f"{text} ({line.provider_model})" if isinstance(line.provider_model, str) else text


def shown_refusal(refused: "RefusedShape") -> Shown:
    """Return a refused request as a command shows it: when, why, and what it lacked."""
    fields = msgspec.structs.asdict(refused).items()
    rows = [
        (name.replace("_", " "), _text(value)) for name, value in fields if name != "details" and value is not UNSET
    ]
    rows += _details(refused.details)
    return Shown(refused.received, (f"{refused.id} was refused; nothing was charged.", Table((), rows)))


def _details(details: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in details.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}: {field.replace('_', ' ')}", _text(each)) for field, each in value.items())
        else:
            yield name.replace("_", " "), _text(value)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
