"""`metergate operator`: what the operator of a gateway does to its accounts. The groups are in files of their own."""

import typer

from billing.cli.accounts import account_app
from billing.cli.commands import Connect, add_call, group
from billing.cli.grants import grant, refund
from billing.cli.keys import key_app
from billing.cli.requests import requests


def operator_app(connect: Connect) -> typer.Typer:
    """The group, on a billing API that `connect` reaches with the admin key."""
    app = group("Accounts, grants, refunds, keys and refusals, with the admin key.")
    app.add_typer(account_app(connect), name="account")
    add_call(app, "grant", grant, connect)
    add_call(app, "refund", refund, connect)
    add_call(app, "requests", requests, connect)
    app.add_typer(key_app(connect), name="key")
    return app
