"""`metergate operator`: the group, and what an operator watches: `audit`, `user`, `requests`, the `provider`
list, `exports` to other systems, `jobs` and `exporters`, collection and whose traffic it is; and `login-link`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from billing.api.operations import BrowserOperations, ExportOperations, OversightOperations
from billing.cli.calls import add_calls, argument, command_of, option, switch
from billing.cli.commands import Connect, group, lazy_group
from billing.cli.options import ANY_REQUEST, FIRST_PAGE, Paging, RequestFilter, parse_moment
from billing.cli.output import Column, Shown, cell, columns, details, listed, page_parts, says
from billing.cli.tables import Table

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.base import Listing
    from billing.schemas.people import LoginLinkShape, UserDetailShape
    from billing.schemas.system import ProviderShape, ProviderTestShape, TargetShape

# The commands of the group, and what adds them.
ADDERS: Final = {
    **dict.fromkeys(
        ("account", "grant", "refund", "adjust", "suspend", "close", "reopen"), "billing.cli.accounts:add_accounts"
    ),
    **dict.fromkeys(("lots", "coupon"), "billing.cli.accounts:add_credit"),
    "plan": "billing.cli.accounts:add_plans",
    "order": "billing.cli.accounts:add_orders",
    "revenue": "billing.cli.revenue:add_revenue",
    "exports": "billing.cli.operator:add_exports",
    "audit": "billing.cli.operator:add_audit",
    "user": "billing.cli.operator:add_users",
    "org": "billing.cli.directories:add_operator_orgs",
    "jobs": "billing.cli.operator:add_collection",
    "exporters": "billing.cli.operator:add_collection",
    "requests": "billing.cli.operator:add_audit",
    "key": "billing.cli.keys:add_keys",
    "margin": "billing.cli.margin:add_margin",
    "provider": "billing.cli.margin:add_margin",
    "login-link": "billing.cli.operator:add_audit",
    "webhooks": "billing.cli.webhooks:add_operator_webhooks",
}


_TIMED: Final[tuple[Column, ...]] = (("time", "created_at"), ("request", "id"))
_LOGGED: Final[tuple[Column, ...]] = (
    *_TIMED,
    "account_id",
    "key_id",
    "model",
    "provider",
    "status",
    ("tokens", "total_tokens"),
    ("ms", "latency_ms"),
    "charge_usd",
    "cost_usd",
)
_REFUSED: Final[tuple[Column, ...]] = (*_TIMED, "account_id", "key_id", "model", "code", "message")


def operator_app(connect: Connect, adders: Mapping[str, str] = ADDERS) -> typer.Typer:
    """Return the group, on a billing API that `connect` reaches with the admin key."""
    return lazy_group("Accounts, money, keys, people, providers. With the admin key.", adders, connect)


def add_audit(app: typer.Typer, connect: Connect) -> None:
    """Add `audit`, `requests` and `login-link`."""
    audit = command_of(
        OversightOperations.audit,
        "Show who did what, newest first. --json has what it said before and after.",
        columns(
            ("time", "created_at"), "actor", "action", "subject", "address", "request_id", folded=("request", "address")
        ),
        {
            "account_id": option("ACCOUNT", "About this account.", "--account"),
            "user_id": option("USER", "About this user.", "--user"),
            "actor": option("WHO", "By admin, user:usr_..., key:key_..."),
            "action": option("ACTION", "Such as key.revoke, or key.* for all."),
            "since": option("TIME", "From then on: a time, a day, or 7d, 24h, today, yesterday.", read=parse_moment),
            "until": option("TIME", "Before then.", read=parse_moment),
        },
    )
    login_link = command_of(
        BrowserOperations.login_link,
        "Create a link that signs the operator in to the console. It works once, within ten minutes.",
        _shown_link,
    )
    add_calls(app, connect, audit=audit, requests=requests, login_link=login_link)


def _shown_link(link: "LoginLinkShape", _: object) -> Shown:
    return Shown(link.received, (link.url, f"It works once, until {link.expires_at}."))


async def requests(
    client: "BillingCalls",
    refused: Annotated[bool, typer.Option("--refused", help="Show refused requests, with the reason.")] = False,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Of this key.")] = None,
    account: Annotated[str | None, typer.Option(metavar="ACCOUNT", help="Of this account's keys.")] = None,
    which: RequestFilter = ANY_REQUEST,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List the last requests of all accounts, newest first. `metergate explain` says more of one."""
    if not refused:
        found = await client.all_usage_events(account_id=account, key_id=key, **asdict(which), **page.asked)
        return listed(found, *_LOGGED, folded=("tokens", "ms", "key", "provider", "cost USD"))
    if which != ANY_REQUEST or page.cursor is not None:
        raise typer.BadParameter("goes with --key or --account, and --limit, alone", param_hint="--refused")
    if key is not None and account is not None:
        raise typer.BadParameter("give --key or --account, not both", param_hint="--key")
    kept = await client.refusals(key_id=key, account_id=account, limit=page.limit)
    return listed(kept, *_REFUSED, folded=("key", "model", "account"))


def add_users(app: typer.Typer, connect: Connect) -> None:
    """Add the group `user`."""
    user, change = group("People: who is let in, and who is an operator."), OversightOperations.update_user
    right = argument("Whether they are one.", "on|off", kind=str)
    add_calls(
        user,
        connect,
        list=command_of(
            OversightOperations.users,
            "List people, newest first.",
            columns("id", ("address", "email"), "status", ("right", lambda user: "operator" if user.operator else "-")),
            {
                "status": option("STATUS", "pending, active or disabled."),
                "email": option("ADDRESS", "Who has this address."),
            },
        ),
        show=command_of(
            OversightOperations.user, "Show a user, and the organizations that they belong to.", _shown_user
        ),
        approve=command_of(change, "Approve a registered user.", _shown_user, fixed={"status": "active"}),
        disable=command_of(
            change,
            "Disable a user: they are signed out everywhere at once. API keys stay.",
            _shown_user,
            fixed={"status": "disabled"},
        ),
        enable=command_of(change, "Enable a disabled user again.", _shown_user, fixed={"status": "active"}),
        operator=command_of(
            change,
            "Let a user do what the admin key may. By their own token, with a second factor.",
            _shown_user,
            {
                "right": right,
            },
            changed=_right,
        ),
        remove_app=command_of(
            change,
            "Remove a lost authenticator app. The recovery codes go, too. Make sure that it is they who ask.",
            _shown_user,
            fixed={"second_factor": False},
        ),
    )
    app.add_typer(user, name="user")


def _right(given: dict[str, Any]) -> dict[str, Any]:
    if given["right"] not in ("on", "off"):
        raise typer.BadParameter("expected on or off", param_hint="on|off")
    return {"operator": given["right"] == "on"}


def _shown_user(user: "UserDetailShape", _: object) -> Shown:
    rows = [
        ("user", user.id),
        ("address", f"{user.email} ({'verified' if user.verified else 'not verified'})"),
        ("name", user.name),
        ("status", user.status),
        ("operator", cell(user.operator)),
        ("second factor", cell(user.second_factor)),
        ("created", user.created_at),
        ("last sign-in", cell(user.last_sign_in_at)),
        *((f"{each.role} of", f"{each.slug}, account {each.account_id}") for each in user.organizations),
    ]
    return details(user, rows)


# The columns of the list of providers, what matters most first, and those that a narrow terminal leaves out.
_PROVIDER: Final[tuple[str, ...]] = (
    "provider",
    "circuit",
    "a minute",
    "failed %",
    "p50 ms",
    "p95 ms",
    "first byte ms",
    "last failure",
    "models",
    "target",
    "origin",
    "weight",
    "kind",
    "serves",
)
_SEEN: Final = ("attempts_per_minute", "error_percent", "head_p50_ms", "head_p95_ms", "first_byte_p50_ms")
_PROVIDER_FOLDED: Final = ("serves", "kind", "weight", "target", "origin", "models", "first byte ms", "p50 ms")


def shown_providers(found: "Listing[ProviderShape]", _: object) -> Shown:
    """Return providers that are on, how they answer and the health of their base URLs and keys; below them in one line
    those that are off, with what each lacks."""
    on = [each for each in found.data if each.off_reason is None]
    off = [f"{each.name} ({each.off_reason})" for each in found.data if each.off_reason is not None]
    rows = [tuple(map(cell, _of_target(each, target))) for each in on for target in each.targets]
    parts = page_parts(Table(_PROVIDER, rows, _PROVIDER_FOLDED))
    return Shown(found.received, (*parts, *([f"Off: {', '.join(off)}."] if off else ())))


def _of_target(provider: "ProviderShape", target: "TargetShape") -> tuple[object, ...]:
    seen = provider.traffic
    last = None if seen is None else seen.last_failure
    return (
        provider.name,
        "ok" if target.state == "closed" else f"{target.state.replace('_', ' ')} until {cell(target.open_until)}",
        *(None if seen is None else getattr(seen, name) for name in _SEEN),
        None if last is None else f"{last.at} {last.reason}",
        len(provider.models),
        target.number,
        target.origin,
        target.weight,
        provider.kind,
        ", ".join(provider.dialects),
    )


def shown_test(found: "ProviderTestShape", _: object) -> Shown:
    """Return how a provider has answered a test."""
    status = "no answer" if found.status is None else f"HTTP {found.status}"
    rows = [
        ("provider", found.provider),
        ("answer", f"{'ok' if found.ok else 'failed'}, {status}"),
        ("what to do", found.advice),
        *([("it said", found.error)] if found.error else ()),
        ("model", f"{found.model}, there {found.provider_model}"),
        ("target", f"{found.target} {found.origin}".strip()),
        ("circuit", f"{found.circuit.replace('_', ' ')} before the test"),
        ("head ms", cell(found.head_ms)),
        ("first token ms", cell(found.first_token_ms)),
        ("total ms", cell(found.total_ms)),
        ("tokens", f"{cell(found.input_tokens)} in, {cell(found.output_tokens)} out"),
        ("cost", f"{cell(found.cost_usd)} USD: yours, no account is charged"),
    ]
    return details(found, rows)


def add_exports(app: typer.Typer, connect: Connect) -> None:
    """Add the group `exports`."""
    exports = group("Usage on its way to other systems.")
    add_calls(
        exports,
        connect,
        list=command_of(
            ExportOperations.exports,
            "List exports. How many events wait, for how long the oldest does, and what is parked.",
            columns(
                ("export", "name"),
                "kind",
                "waiting",
                ("lag", lambda each: f"{each.lag_seconds} s"),
                "parked",
                ("last failure", "error"),
            ),
        ),
        parked=command_of(
            ExportOperations.parked_exports,
            "List what was not accepted, newest first, and why.",
            columns(
                "export",
                "item",
                "account_id",
                ("reason", lambda each: each.reason + (" (is tried again)" if each.again else "")),
            ),
            {
                "export": option("NAME", "Of one export."),
            },
        ),
        retry=command_of(
            ExportOperations.retry_exports,
            "Retry what is parked, once the cause is fixed.",
            says("{retried} items of {export} are retried."),
            {
                "export": argument("The export's name."),
                "item": argument("One item, as `parked` names it.", optional=True),
                "every": switch("--all", "All that is parked of this export.", True),
            },
            changed=_one_or_all,
        ),
    )
    app.add_typer(exports, name="exports")


def _one_or_all(given: dict[str, Any]) -> dict[str, Any]:
    every = given.pop("every", False)
    if ("item" in given) == every:
        raise typer.BadParameter("name an item, or give --all", param_hint="item")
    return given


def add_collection(app: typer.Typer, connect: Connect) -> None:
    """Add the groups `jobs` and `exporters`."""
    jobs, exporters = group("Jobs: runs of collection."), group("Traffic that exporters count: whose it is.")
    add_calls(
        jobs,
        connect,
        list=command_of(
            OversightOperations.collect_runs,
            "List the last runs of collection, newest first.",
            columns(
                "started_at",
                "job",
                "status",
                ("sources", lambda run: f"{run.sources - run.failed_sources}/{run.sources}"),
                ("samples", "processed_samples"),
                ("minutes", "written_minutes"),
                ("replayed", "replayed_minutes"),
                "debits",
                "error",
            ),
        ),
    )
    add_calls(
        exporters,
        connect,
        subjects=command_of(
            OversightOperations.collect_subjects,
            "List whom exporters count, newest first. With all bytes that they counted.",
            columns(
                "uuid",
                ("e-mail", "email"),
                ("account", lambda each: each.account_id or "parked"),
                "bytes",
                ("first seen", "created_at"),
            ),
            {
                "state": switch("--parked", "Only those that have no account.", "parked"),
            },
        ),
        assign=command_of(
            OversightOperations.assign_subject,
            "Give traffic its account. What was parked is charged with the next run; what has another is moved from "
            "now on.",
            says("{account_id} was given {assigned} of that name."),
            {
                "subject": argument("The uuid, or the e-mail address."),
                "account_id": argument("The account: its id, its name, or how these begin."),
            },
        ),
    )
    app.add_typer(jobs, name="jobs")
    app.add_typer(exporters, name="exporters")
