"""`metergate webhooks`: where an account's notices are sent to, and what became of each."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from billing.cli.commands import group
from billing.cli.options import FIRST_PAGE, Paging
from billing.cli.output import Shown, Table, listed
from billing.cli.people import add_person_calls
from billing.cli.session import FindSession

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.webhooks import DeliveryShape, NewEndpointShape

EndpointId = Annotated[str, typer.Argument(help="The endpoint's id, whe_...", show_default=False)]


def add_webhooks(app: typer.Typer, find: FindSession) -> None:
    """Add the group `webhooks`."""
    webhooks = group("Where notices of the account are sent to, such as balance.low.")
    add_person_calls(
        webhooks,
        find,
        list=index,
        add=add,
        remove=remove,
        rotate=rotate,
        test=test,
        deliveries=deliveries,
        redeliver=redeliver,
    )
    app.add_typer(webhooks, name="webhooks")


async def index(client: "BillingCalls", page: Paging = FIRST_PAGE) -> Shown:
    """List endpoints, newest first."""
    return listed(
        await client.webhook_endpoints(**page.asked),
        "id",
        "url",
        ("types", lambda each: "all" if each.types is None else " ".join(each.types)),
        ("state", lambda each: "on" if each.enabled else f"off: {each.disabled_reason}"),
        "failing_since",
    )


async def add(
    client: "BillingCalls",
    url: Annotated[str, typer.Argument(help="Where to, an https:// address.", show_default=False)],
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Such as balance.low; may be given several times, else all."),
    ] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
) -> Shown:
    """Have notices sent to an address. The secret that signs them is printed once."""

    asked: list[Any] | None = types or None  # the gateway knows which there are
    made = await client.add_webhook_endpoint(url=url, types=asked, description=description)
    return _with_secret(made)


async def remove(client: "BillingCalls", endpoint_id: EndpointId) -> Shown:
    """Have notices sent there no more. What was delivered is forgotten, too."""
    await client.remove_webhook_endpoint(endpoint_id)
    return Shown({"id": endpoint_id, "removed": True}, (f"{endpoint_id} is removed.",))


async def rotate(client: "BillingCalls", endpoint_id: EndpointId) -> Shown:
    """Give an endpoint a new secret, which is printed once. For a day the one before signs, too."""
    return _with_secret(await client.rotate_webhook_secret(endpoint_id))


async def test(client: "BillingCalls", endpoint_id: EndpointId) -> Shown:
    """Send a notice of the type `test` to an endpoint."""
    return _on_its_way(endpoint_id, await client.send_test_notice(endpoint_id))


async def deliveries(client: "BillingCalls", endpoint_id: EndpointId, page: Paging = FIRST_PAGE) -> Shown:
    """List what was sent to an endpoint, newest first, and what became of it."""
    return listed(
        await client.webhook_deliveries(endpoint_id, **page.asked),
        "id",
        "type",
        "state",
        ("tries", "attempts"),
        "status",
        "created_at",
        ("next try", "next_attempt_at"),
        ("why", "error"),
    )


async def redeliver(
    client: "BillingCalls",
    endpoint_id: EndpointId,
    delivery_id: Annotated[str, typer.Argument(help="As `webhooks deliveries` lists it.", show_default=False)],
) -> Shown:
    """Send a delivery again, whatever became of it."""
    return _on_its_way(endpoint_id, await client.redeliver(endpoint_id, delivery_id))


def _with_secret(made: "NewEndpointShape") -> Shown:
    rows = [("endpoint", made.id), ("url", made.url), ("secret", made.secret)]
    note = f"The secret is shown only now. Then: metergate webhooks test {made.id}"
    return Shown(made.received, (Table((), rows),), (note,), secret=True)


def _on_its_way(endpoint_id: str, sent: "DeliveryShape") -> Shown:
    sentence = f"{sent.id} is on its way. What became of it: metergate webhooks deliveries {endpoint_id}"
    return Shown(sent.received, (sentence,))
