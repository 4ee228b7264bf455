"""`metergate operator`: what the operator of a gateway does to its accounts, and requests that were refused.

`add_calls` makes a function of a `BillingCalls` a command: connected, its result shown, and what the client raises told
in a sentence. A quota is `window:metric=limit`, with `@model` for some models alone:

    day:tokens=100000      month:cost=12.50      minute:requests=60@gpt-4*
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from billing.cli.commands import Call, Connect, Work, add_command, lazy_group
from billing.cli.options import REMOTE, Limit
from billing.cli.output import REFUSED, UNREACHABLE, CommandFailed, Output, Shown, Table, details
from billing.pages import DEFAULT_LIMIT
from billing.quotas import Metric, QuotaError, parse_quota
from billing.schemas.base import shown
from billing.schemas.quotas import QuotaShape

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.client.errors import Refused
    from billing.schemas.accounts import AccountShape

# The commands of the group, and what adds them.
ADDERS: Final = {
    **dict.fromkeys(
        ("account", "grant", "refund", "adjust", "suspend", "close", "reopen"), "billing.cli.accounts:add_accounts"
    ),
    **dict.fromkeys(("lots", "coupon"), "billing.cli.credit:add_credit"),
    "plan": "billing.cli.plans:add_plans",
    "order": "billing.cli.orders:add_orders",
    "exports": "billing.cli.orders:add_exports",
    "audit": "billing.cli.oversight:add_audit",
    "user": "billing.cli.oversight:add_users",
    "jobs": "billing.cli.oversight:add_jobs",
    "exporters": "billing.cli.oversight:add_exporters",
    "requests": "billing.cli.operator:add_requests",
    "key": "billing.cli.keys:add_keys",
    "margin": "billing.cli.margin:add_margin",
    "provider": "billing.cli.margin:add_providers",
    "login-link": "billing.cli.operator:add_login_link",
}
_UNAUTHORIZED: Final = 401
_FAILED: Final = 500
_AWAY: Final = 503
_QUOTA: Final = re.compile(r"(?P<window>[^:=@]+):(?P<metric>[^:=@]+)=(?P<limit>[^@]+)(?:@(?P<model>.+))?")
EXPECTED: Final = "expected window:metric=limit, such as day:tokens=100000 or month:cost=12.50@gpt-4*"


def operator_app(connect: Connect, adders: Mapping[str, str] = ADDERS) -> typer.Typer:
    """Return the group, on a billing API that `connect` reaches with the admin key."""
    return lazy_group(
        "Accounts, balances, keys, people, the audit log, refusals and providers, with the admin key.", adders, connect
    )


def add_requests(app: typer.Typer, connect: Connect) -> None:
    """Add `requests`."""
    add_calls(app, connect, requests=requests)


def add_login_link(app: typer.Typer, connect: Connect) -> None:
    """Add `login-link`."""
    add_calls(app, connect, login_link=login_link)


async def login_link(client: "BillingCalls") -> Shown:
    """Make a link that signs you in to the console as the operator: once, within ten minutes."""
    link = await client.login_link()
    return Shown(link.received, (link.url, f"It is good once, until {link.expires_at}."))


async def providers(client: "BillingCalls") -> Shown:
    """List providers and the health of their base URLs and keys."""
    page = await client.providers()
    rows = [
        (
            each.name,
            each.kind,
            each.off_reason or "on",
            ", ".join(each.dialects),
            str(len(each.models)),
            str(target.number),
            target.origin or "-",
            str(target.weight),
            target.state,
            target.open_until or "-",
        )
        for each in page.data
        for target in each.targets
    ]
    headers = (
        "provider",
        "kind",
        "status",
        "serves",
        "models",
        "target",
        "origin",
        "weight",
        "state",
        "open until",
    )
    return Shown(page.received, (Table(headers, rows) if rows else "There are none.",))


async def requests(
    client: "BillingCalls",
    refused: Annotated[bool, typer.Option("--refused", help="Those that were refused, with the reason.")] = False,
    key: Annotated[str | None, typer.Option(metavar="KEY_ID", help="Of this key, key_...")] = None,
    account: Annotated[str | None, typer.Option(metavar="ACCOUNT_ID", help="Of this account's keys, acc_...")] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Shown:
    """Show the last requests that were refused, newest first; `metergate explain` says more of one."""
    if not refused:
        raise typer.BadParameter("give --refused; requests that were served are in the usage events of their account")
    if key is not None and account is not None:
        raise typer.BadParameter("give --key or --account, not both", param_hint="--key")
    page = await client.refusals(key_id=key, account_id=account, limit=limit)
    rows = [
        (each.created_at, each.id, each.key_id or "-", each.model or "-", each.code, each.message) for each in page.data
    ]
    headers = ("time", "request", "key", "model", "code", "message")
    return Shown(page.received, (Table(headers, rows) if rows else "There are none.",))


def add_calls(app: typer.Typer, connect: Connect, **calls: Call) -> None:
    """Make calls commands of `app`, by their names: connected, and their results shown."""
    for name, call in calls.items():
        add_command(app, name.replace("_", "-"), _connected(call, connect), REMOTE)


def _connected(call: Call, connect: Connect) -> Work:
    @functools.wraps(call)
    async def work(output: Output, **given: Any) -> None:
        with explained_answers():
            async with connect(output) as client:
                shown = await call(client, **given)
        output.show(shown)

    return work


@contextmanager
def repeatable(what: str, key: str) -> Iterator[None]:
    """Tell, where it is not known whether `what` was made, by which idempotency key it is repeated without harm."""
    from billing.client.errors import Refused, Unreachable

    unknown = f"The {what} may have been made or not: repeat it with --idempotency-key {key}."
    try:
        yield
    except Unreachable as error:
        raise CommandFailed(f"{error} {unknown}", UNREACHABLE) from error
    except Refused as error:
        if error.status < _FAILED:
            raise
        raise CommandFailed(f"{error.message} {unknown}", UNREACHABLE) from error


@contextmanager
def explained_answers() -> Iterator[None]:
    """Turn what the billing API's client raises into `CommandFailed`."""
    from billing.client.errors import ClientError, Refused, Unreachable

    try:
        yield
    except Refused as error:
        raise CommandFailed(_refusal(error), UNREACHABLE if error.status == _AWAY else REFUSED) from error
    except Unreachable as error:
        message = f"{error} Check --api-url or METERGATE_API_URL, and that the gateway runs there."
        raise CommandFailed(message, UNREACHABLE) from error
    except ClientError as error:
        raise CommandFailed(f"{error} Check --api-url or METERGATE_API_URL.", UNREACHABLE) from error


def _refusal(error: "Refused") -> str:
    if error.status == _UNAUTHORIZED:
        return f"{error.message} Set ADMIN_API_KEY, or name a file that holds the admin key with --token-file."
    return f"{error.message} ({error.code})"


def parse_quota_text(text: str) -> QuotaShape:
    """Return a quota as the API takes it. Raises `QuotaError`."""
    match = _QUOTA.fullmatch(text)
    if match is None:
        raise QuotaError(EXPECTED)
    fields: dict[str, object] = {name: value for name, value in match.groupdict().items() if value is not None}
    limit = match["limit"]
    if match["metric"] != Metric.cost.name and limit.isascii() and limit.isdigit():
        fields["limit"] = int(limit)
    shape: QuotaShape = shown(parse_quota(fields))
    return shape


def quotas_of(texts: Iterable[str]) -> list[QuotaShape]:
    """Return the quotas of an option given several times. Raises `typer.BadParameter`, which names the wrong one."""
    quotas = []
    for text in texts:
        try:
            quotas.append(parse_quota_text(text))
        except QuotaError as error:
            raise typer.BadParameter(f"{text!r}: {error}", param_hint="--quota") from error
    return quotas


def quota_text(quota: QuotaShape) -> str:
    """Return the text of a quota, as `parse_quota_text` reads it; a feature, which it has no text for, stands in
    brackets."""
    model = f"@{quota.model}" if quota.model else ""
    feature = f" [{quota.feature}]" if quota.feature else ""
    return f"{quota.window}:{quota.metric}={quota.limit}{model}{feature}"


def quotas_text(quotas: Iterable[QuotaShape]) -> str:
    """Return the texts of several in one cell."""
    return ", ".join(map(quota_text, quotas)) or "none"


def shown_account(account: "AccountShape") -> Shown:
    """Return an account as a command shows it."""
    rows = [
        ("account", account.id),
        ("name", account.name),
        ("plan", account.plan),
        ("status", account.status),
        ("balance USD", account.balance_usd),
        ("credit limit USD", account.credit_limit_usd),
        ("quotas", quotas_text(account.quotas)),
        ("plan's quotas", quotas_text(account.plan_quotas)),
        ("created", account.created_at),
    ]
    return details(account, rows)
