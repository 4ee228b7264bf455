"""Every command of `metergate`, as it is called."""

from collections.abc import Iterator
from typing import Any

import typer

from gateway.commands.root import make_app


def _tree(group: Any, *above: str) -> Iterator[str]:
    for name in group.list_commands(None):
        below = group.get_command(None, name)
        yield " ".join((*above, name))
        if hasattr(below, "list_commands"):
            yield from _tree(below, *above, name)


# Groups among them.
COMMANDS = list(_tree(typer.main.get_command(make_app())))
BUDGETS = ("list", "create", "update", "delete")
# Commands of people, who sign in first.
OF_PEOPLE = (
    *(f"auth {what}" for what in ("register", "login", "verify", "token", "status", "logout", "password", "sessions")),
    "auth forgot",
    "auth reset",
    *(f"auth totp {what}" for what in ("enrol", "confirm", "recovery-codes", "off")),
    *(f"keys {what}" for what in ("create", "list", "show", "update", "rotate", "revoke", "revoke-leaked")),
    *(f"org {what}" for what in ("list", "show", "create", "rename", "members", "role", "remove", "transfer")),
    *(f"org {what}" for what in ("invite", "invitations", "resend-invitation", "revoke-invitation", "accept")),
    *(
        f"org scim {what}"
        for what in ("show", "tokens", "create-token", "revoke-token", "rules", "rule", "remove-rule")
    ),
    "usage",
    "requests",
    "billing status",
    "billing setup",
    "billing portal",
    "run",
    *(f"billing {what}" for what in ("plans", "prices", "checkout", "change-plan", "orders", "invoices", "receipts")),
    "billing redeem",
    "billing alert",
    *(f"billing auto-recharge {what}" for what in ("show", "set", "off")),
    *(f"webhooks {what}" for what in ("list", "add", "remove", "rotate", "test", "deliveries", "redeliver")),
    *(f"billing budget {what}" for what in BUDGETS),
)
# Commands on files of prices alone: they read no other setting and call nobody.
ON_FILES = (*(f"operator price {what}" for what in ("list", "check", "import", "diff", "try")), "operator stripe sync")
