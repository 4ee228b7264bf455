"""Commands on top of `billing.client.calls`, and what every command of `metergate` stands on.

    commands    a function becomes a command: common options, event loop, exit code; groups, loaded when called
    options     Common: the options that every command takes; those of several commands; quotas as text
    output      Output: tables on a terminal, plain text in a pipe, JSON, a file; Shown, Table; what shows an answer;
                CommandFailed: one sentence and an exit code
    prompts     asking before money moves, and for secrets
    calls       an operation of the API becomes a command; how commands are connected; what a call that fails says
    names       names, mails and beginnings of ids in the place of ids
    client      CommandClient: the calls over the standard library, quick to import
    session     who is signed in: the files of tokens, how they are renewed
    batch       `metergate run`: a file of commands
    operator    `metergate operator`: the audit log, people, refused requests, exports; accounts  with their money:
                grants, coupons, plans, orders; margin; revenue
    webhooks    where notices are sent to, of an account and of what troubles the gateway
    directories  the directory of an organization: SCIM's tokens, what groups give, domains
    auth        `metergate auth`; keys  API keys, of operators and people; orgs; usage  with single requests; billing
                what is left, what was bought and what comes next, budgets

How a command reaches the billing API is passed in (`commands.Connect`): this package knows no gateway.
"""

from billing.cli.commands import Connect, add_command, group, lazy_group, outermost_group
from billing.cli.options import REMOTE, RESULT, TIMED, Common
from billing.cli.output import REFUSED, UNREACHABLE, USAGE, CommandFailed, Output, Shown
from billing.cli.tables import Table

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
    "outermost_group",
]
