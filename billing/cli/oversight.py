"""`metergate operator audit` and `user`: who did what, and who may; `jobs` and `exporters`: collection, and whose
traffic it is."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from billing.cli.commands import Connect, group
from billing.cli.operator import add_calls
from billing.cli.options import FIRST_PAGE, Paging, given
from billing.cli.output import Shown, details, listed

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.people import UserDetailShape

UserId = Annotated[str, typer.Argument(help="The user's id, usr_...", show_default=False)]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="From then on: a time, or a day such as 2027-01-31.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Before then.")]


def add_audit(app: typer.Typer, connect: Connect) -> None:
    """Add `audit`."""
    add_calls(app, connect, audit=audit)


def add_users(app: typer.Typer, connect: Connect) -> None:
    """Add the group `user`."""
    user = group("People: who is let in, and who is an operator.")
    add_calls(
        user,
        connect,
        list=list_users,
        show=show_user,
        approve=approve,
        disable=disable,
        enable=enable,
        operator=set_operator,
        remove_app=remove_app,
    )
    app.add_typer(user, name="user")


async def audit(
    client: "BillingCalls",
    account: Annotated[str | None, typer.Option(metavar="ACCOUNT_ID", help="About this account.")] = None,
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="About this user.")] = None,
    actor: Annotated[str | None, typer.Option(metavar="WHO", help="By admin, user:usr_..., key:key_...")] = None,
    action: Annotated[str | None, typer.Option(metavar="ACTION", help="Such as key.revoke, or key.* for all.")] = None,
    since: Since = None,
    until: Until = None,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """Show who did what, newest first; --json has what it said before and after."""
    about: dict[str, Any] = {
        "account_id": account,
        "user_id": user,
        "actor": actor,
        "action": action,
        "since": since,
        "until": until,
    }
    return listed(
        await client.audit(**about, **page.asked),
        ("time", "created_at"),
        "actor",
        "action",
        "subject",
        "address",
        "request_id",
    )


async def list_users(
    client: "BillingCalls",
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="pending, active or disabled.")] = None,
    email: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Who has this address.")] = None,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List people, newest first."""
    return listed(
        await client.users(email=email, **page.asked, **given(status=status)),
        "id",
        ("address", lambda user: user.email),
        "status",
        ("right", lambda user: "operator" if user.operator else "-"),
    )


async def show_user(client: "BillingCalls", user_id: UserId) -> Shown:
    """Show a user, and the organizations that they belong to."""
    return _one(await client.user(user_id))


async def approve(client: "BillingCalls", user_id: UserId) -> Shown:
    """Approve a registered user."""
    return await _change(client, user_id, status="active")


async def disable(client: "BillingCalls", user_id: UserId) -> Shown:
    """Let in no more: they are signed out everywhere at once. API keys stay."""
    return await _change(client, user_id, status="disabled")


async def enable(client: "BillingCalls", user_id: UserId) -> Shown:
    """Enable a disabled user again."""
    return await _change(client, user_id, status="active")


async def set_operator(
    client: "BillingCalls",
    user_id: UserId,
    right: Annotated[str, typer.Argument(metavar="on|off", help="Whether they are one.", show_default=False)],
) -> Shown:
    """Let a user do what the admin key may, by their own token; it needs a second factor."""
    if right not in ("on", "off"):
        raise typer.BadParameter("expected on or off", param_hint="on|off")
    return await _change(client, user_id, operator=right == "on")


async def remove_app(client: "BillingCalls", user_id: UserId) -> Shown:
    """Remove the authenticator app of who has lost it, and their recovery codes. Make sure that it is they who ask."""
    return await _change(client, user_id, second_factor=False)


async def _change(client: "BillingCalls", user_id: str, **changes: Any) -> Shown:
    return _one(await client.update_user(user_id, **changes))


def _one(user: "UserDetailShape") -> Shown:
    rows = [
        ("user", user.id),
        ("address", f"{user.email} ({'verified' if user.verified else 'not verified'})"),
        ("name", user.name),
        ("status", user.status),
        ("operator", "yes" if user.operator else "no"),
        ("second factor", "yes" if user.second_factor else "no"),
        ("created", user.created_at),
        ("last sign-in", user.last_sign_in_at or "-"),
        *((f"{each.role} of", f"{each.slug}, account {each.account_id}") for each in user.organizations),
    ]
    return details(user, rows)


def add_jobs(app: typer.Typer, connect: Connect) -> None:
    """Add the group `jobs`."""
    jobs = group("Jobs: runs of collection.")
    add_calls(jobs, connect, list=list_runs)
    app.add_typer(jobs, name="jobs")


def add_exporters(app: typer.Typer, connect: Connect) -> None:
    """Add the group `exporters`."""
    exporters = group("Traffic that exporters count: whose it is.")
    add_calls(exporters, connect, subjects=list_subjects, assign=assign)
    app.add_typer(exporters, name="exporters")


async def list_runs(client: "BillingCalls", page: Paging = FIRST_PAGE) -> Shown:
    """List the last runs of collection, newest first."""
    return listed(
        await client.collect_runs(**page.asked),
        "started_at",
        "job",
        "status",
        ("sources", lambda run: f"{run.sources - run.failed_sources}/{run.sources}"),
        ("samples", "processed_samples"),
        ("minutes", "written_minutes"),
        ("replayed", "replayed_minutes"),
        "debits",
        "error",
    )


async def list_subjects(
    client: "BillingCalls",
    parked: Annotated[bool, typer.Option("--parked", help="Those alone that have no account.")] = False,
    page: Paging = FIRST_PAGE,
) -> Shown:
    """List whom exporters count, newest first, and all bytes that they counted."""
    return listed(
        await client.collect_subjects(state="parked" if parked else "all", **page.asked),
        "uuid",
        ("e-mail", "email"),
        ("account", lambda each: each.account_id or "parked"),
        "bytes",
        ("seen first", "created_at"),
    )


async def assign(
    client: "BillingCalls",
    subject: Annotated[str, typer.Argument(help="The uuid, or the e-mail address.", show_default=False)],
    account_id: Annotated[str, typer.Argument(help="The account's id, acc_...", show_default=False)],
) -> Shown:
    """Give traffic its account. What was parked is charged with the next run; what has another is moved from now on."""
    assigned = await client.assign_subject(subject=subject, account_id=account_id)
    return Shown(assigned.received, (f"{account_id} was given {assigned.assigned} of that name.",))
