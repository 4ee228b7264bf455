"""Commands on top of `billing.client.calls`, and what every command of `metergate` stands on.

    commands    a function becomes a command: common options, event loop, exit code; groups, loaded when called
    options     Common: the options that every command takes; arguments of several commands
    output      Output: tables on a terminal, plain text in a pipe, JSON, a file; Shown, Table; CommandFailed: one
                sentence and an exit code
    confirmation  asking before money moves
    batch       `metergate run`: a file of commands
    client      CommandClient: the calls over the standard library, quick to import
    operator    `metergate operator`: a client's call becomes a command, what its errors say; quotas as text;
                refused requests; accounts  with grants, refunds, adjustments; credit  lots and coupons;
                keys, with key_rules  the options for a key's rules, which own_keys has, too;
                oversight  the audit log, people; orders; plans; margin
    session     who is signed in: the files of tokens, how they are renewed; people  a person's call becomes a command,
                what its errors say, how secrets are asked for; a new password by mail, an authenticator
                app; auth; own_keys; orgs; usage; requests; billing  what is left, what was bought, and
                what comes next, with auto_recharge; budgets; webhooks  where notices are sent to

How a command reaches the billing API is passed in (`commands.Connect`): this package knows no gateway.
"""

from billing.cli.commands import Connect, add_command, group, lazy_group
from billing.cli.options import REMOTE, RESULT, TIMED, Common
from billing.cli.output import REFUSED, UNREACHABLE, USAGE, CommandFailed, Output, Shown, Table

__all__ = [
    "REFUSED",
    "REMOTE",
    "RESULT",
    "TIMED",
    "UNREACHABLE",
    "USAGE",
    "CommandFailed",
    "Common",
    "Connect",
    "Output",
    "Shown",
    "Table",
    "add_command",
    "group",
    "lazy_group",
]
