"""Commands on top of `billing.client`, and what every command of `metergate` stands on.

    commands    a function becomes a command: common options, event loop, exit code
    options     Common: the options that every command takes
    output      Output: tables on a terminal, plain text in a pipe, JSON, a file; Shown, Table; terminal  by rich
    failures    CommandFailed: one sentence and an exit code; answers  what a client's error says to a person
    quotas      `day:tokens=100000@gpt-4*` and back
    operator    `metergate operator`: accounts, grants and refunds, keys, requests that were refused

How a command reaches the billing API is passed in (`commands.Connect`): this package knows no gateway.
"""

from billing.cli.commands import Connect, add_call, add_command, group
from billing.cli.failures import REFUSED, UNREACHABLE, USAGE, CommandFailed
from billing.cli.operator import operator_app
from billing.cli.options import REMOTE, RESULT, TIMED, Common
from billing.cli.output import Output, Shown, Table

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
    "add_call",
    "add_command",
    "group",
    "operator_app",
]
