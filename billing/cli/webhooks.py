"""`metergate webhooks` and `metergate operator webhooks`: where notices are sent to, of an account and of what troubles
the gateway."""

from typing import TYPE_CHECKING, Any

import typer

from billing.api.operations import WebhookOperations
from billing.cli.calls import add_calls, add_person_calls, argument, command_of, ended, option
from billing.cli.commands import Connect, group
from billing.cli.output import Show, Shown, columns, says
from billing.cli.session import FindSession
from billing.cli.tables import Table

if TYPE_CHECKING:
    from billing.schemas.webhooks import NewEndpointShape

_ENDPOINTS = columns(
    "id",
    "url",
    "format",
    ("types", lambda each: "all" if each.types is None else " ".join(each.types)),
    ("state", lambda each: "on" if each.enabled else f"off: {each.disabled_reason}"),
    "failing_since",
    folded=("format", "types"),
)
_DELIVERIES = columns(
    "id",
    "type",
    "state",
    ("tries", "attempts"),
    "status",
    "created_at",
    ("next try", "next_attempt_at"),
    ("why", "error"),
    folded=("tries", "created"),
)
_LIST = "List endpoints, newest first."
_ADD = "Have notices sent to an address. The secret that signs them is printed once."
_REMOVE = "Delete an endpoint and its deliveries.", ended("removed", "is removed.")
_TEST = "Send a notice of the type `test` to an endpoint."
_DELIVERED = "List what was sent to an endpoint, newest first. With the outcome."


def add_webhooks(app: typer.Typer, find: FindSession) -> None:
    """Add the group `webhooks` of an account."""
    webhooks = group("Where notices of the account are sent to, such as balance.low.")
    sent, made = _sent("metergate webhooks"), _made("metergate webhooks")
    of = WebhookOperations
    add_person_calls(
        webhooks,
        find,
        list=command_of(of.webhook_endpoints, _LIST, _ENDPOINTS),
        add=command_of(of.add_webhook_endpoint, _ADD, made, _options("balance.low")),
        remove=command_of(of.remove_webhook_endpoint, *_REMOVE),
        rotate=command_of(
            of.rotate_webhook_secret,
            "Give an endpoint a new secret, which is printed once. For a day the previous one signs, too.",
            made,
        ),
        test=command_of(of.send_test_notice, _TEST, sent),
        deliveries=command_of(of.webhook_deliveries, _DELIVERED, _DELIVERIES),
        redeliver=command_of(
            of.redeliver,
            "Send a delivery again, whatever became of it.",
            sent,
            {"delivery_id": argument("As `webhooks deliveries` lists it.")},
        ),
    )
    app.add_typer(webhooks, name="webhooks")


def add_operator_webhooks(app: typer.Typer, connect: Connect) -> None:
    """Add the group `webhooks` of operators."""
    webhooks = group("Where operators are alerted to problems: Slack, Teams, PagerDuty, or an address of yours.")
    of = WebhookOperations
    add_calls(
        webhooks,
        connect,
        list=command_of(of.webhooks_of_operators, _LIST, _ENDPOINTS),
        add=command_of(
            of.add_webhook_of_operators, _ADD, _made("metergate operator webhooks"), _options("trouble.began")
        ),
        remove=command_of(of.remove_webhook_of_operators, *_REMOVE),
        test=command_of(of.test_webhook_of_operators, _TEST, _sent("metergate operator webhooks")),
        deliveries=command_of(of.deliveries_of_operators, _DELIVERED, _DELIVERIES),
    )
    app.add_typer(webhooks, name="webhooks")


def _options(example: str) -> dict[str, Any]:
    return {
        "url": argument("Where to, an https:// address."),
        "types": option("TYPE", f"Such as {example}; may be given several times, else all.", "--type"),
        "description": option("TEXT", "What it is for."),
        "format": option("FORMAT", "What notices look like there: json, slack, teams, pagerduty."),
        "routing_key": option("KEY", "Of a service at PagerDuty, for the format pagerduty."),
    }


def _sent(commands: str) -> Show:
    return says(f"{{id}} is on its way. What became of it: {commands} deliveries {{endpoint_id}}")


def _made(commands: str) -> Show:
    """Return what shows a new endpoint, or a new secret of one."""

    def shown(made: "NewEndpointShape", _: object) -> Shown:
        rows = [("endpoint", made.id), ("url", made.url), ("secret", made.secret)]
        note = f"The secret is shown only now. Then: {commands} test {made.id}"
        return Shown(made.received, (Table((), rows),), (note,), secret=True)

    return shown
