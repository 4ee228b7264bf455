"""`metergate operator webhooks`: where operators are told of what troubles the gateway, and a test of each place."""

from typing import TYPE_CHECKING

import typer

from billing.api.operations import WebhookOperations
from billing.cli.calls import add_calls, argument, command_of, ended, option
from billing.cli.commands import Connect, group
from billing.cli.output import Shown, columns, says
from billing.cli.tables import Table

if TYPE_CHECKING:
    from billing.schemas.webhooks import NewEndpointShape


def add_operator_webhooks(app: typer.Typer, connect: Connect) -> None:
    """Add the group `webhooks`."""
    webhooks = group("Where operators are alerted to problems: Slack, Teams, PagerDuty, or an address of yours.")
    sent = says("{id} is on its way. What became of it: metergate operator webhooks deliveries {endpoint_id}")
    add_calls(
        webhooks,
        connect,
        list=command_of(
            WebhookOperations.webhooks_of_operators,
            "List endpoints, newest first.",
            columns(
                "id",
                "url",
                "format",
                ("types", lambda each: "all" if each.types is None else " ".join(each.types)),
                ("state", lambda each: "on" if each.enabled else f"off: {each.disabled_reason}"),
                "failing_since",
            ),
        ),
        add=command_of(
            WebhookOperations.add_webhook_of_operators,
            "Have notices sent to an address. The secret that signs them is printed once.",
            _shown_secret,
            {
                "url": argument("Where to, an https:// address."),
                "types": option("TYPE", "Such as trouble.began; may be given several times, else all.", "--type"),
                "description": option("TEXT", "What it is for."),
                "format": option("FORMAT", "What notices look like there: json, slack, teams, pagerduty."),
                "routing_key": option("KEY", "Of a service at PagerDuty, for the format pagerduty."),
            },
        ),
        remove=command_of(
            WebhookOperations.remove_webhook_of_operators,
            "Delete an endpoint and its deliveries.",
            ended("removed", "is removed."),
        ),
        test=command_of(
            WebhookOperations.test_webhook_of_operators, "Send a notice of the type `test` to an endpoint.", sent
        ),
        deliveries=command_of(
            WebhookOperations.deliveries_of_operators,
            "List what was sent to an endpoint, newest first, with the outcome.",
            columns(
                "id",
                "type",
                "state",
                ("tries", "attempts"),
                "status",
                "created_at",
                ("next try", "next_attempt_at"),
                ("why", "error"),
            ),
        ),
    )
    app.add_typer(webhooks, name="webhooks")


def _shown_secret(made: "NewEndpointShape", _: object) -> Shown:
    rows = [("endpoint", made.id), ("url", made.url), ("secret", made.secret)]
    note = f"The secret is shown only now. Then: metergate operator webhooks test {made.id}"
    return Shown(made.received, (Table((), rows),), (note,), secret=True)
