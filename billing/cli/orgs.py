"""`metergate org`: organizations, who belongs to them, invitations. Without --org a command is about the organization
of the token, which `metergate auth token --org` changes."""

from typing import TYPE_CHECKING, Annotated

import typer

from billing.cli.commands import group
from billing.cli.options import FIRST_PAGE, Paging, given
from billing.cli.output import CommandFailed, Shown, details, listed, revoked
from billing.cli.people import Org, add_person_calls, add_session_calls, ask_secret, org_of
from billing.cli.session import FindSession, Session
from billing.schemas.organizations import InvitationShape, OrganizationShape, RoleName

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls

UserId = Annotated[str, typer.Argument(metavar="USER_ID", help="A member, usr_...", show_default=False)]
InvitationId = Annotated[str, typer.Argument(metavar="INVITATION_ID", help="inv_...", show_default=False)]
Role = Annotated[RoleName, typer.Argument(help="What they may do.", show_default=False)]
INVITATION = "METERGATE_INVITATION"
_ID_PREFIX = "org_"


def add_orgs(app: typer.Typer, find: FindSession) -> None:
    """Add the group `org`."""
    org = group("Organizations, their members, invitations.")
    add_person_calls(
        org,
        find,
        list=index,
        show=show,
        create=create,
        rename=rename,
        members=members,
        invite=invite,
        invitations=invitations,
        resend_invitation=resend_invitation,
        revoke_invitation=revoke_invitation,
    )
    add_session_calls(org, find, accept=accept)
    add_person_calls(org, find, role=role, remove=remove, transfer=transfer)
    app.add_typer(org, name="org")


async def index(client: "BillingCalls", page: Paging = FIRST_PAGE) -> Shown:
    """List the organizations that you belong to, newest first."""
    return listed(await client.organizations(**page.asked), "slug", "name", "role", "id", "account_id")


async def show(client: "BillingCalls", org: Org = None) -> Shown:
    """Show an organization."""
    return _one(await client.organization(await _org_id(client, org)))


async def create(
    client: "BillingCalls", name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)]
) -> Shown:
    """Create an organization with an account of its own. You are its owner."""
    made = await client.create_organization(name=name)
    return _one(made, f"To work there: metergate auth token --org {made.slug}")


async def rename(
    client: "BillingCalls",
    name: Annotated[str | None, typer.Argument(help="What to call it.", show_default=False)] = None,
    slug: Annotated[str | None, typer.Option(metavar="SLUG", help="Its name in addresses, such as acme-corp.")] = None,
    org: Org = None,
) -> Shown:
    """Change an organization's name, its slug, or both."""
    if name is None and slug is None:
        raise typer.BadParameter("give a name, --slug, or both")
    return _one(await client.update_organization(await _org_id(client, org), **given(name=name, slug=slug)))


async def members(client: "BillingCalls", org: Org = None, page: Paging = FIRST_PAGE) -> Shown:
    """List the members of an organization."""
    return listed(
        await client.members(await _org_id(client, org), **page.asked),
        "user_id",
        ("address", lambda member: member.email),
        "name",
        "role",
        ("since", "created_at"),
    )


async def invite(
    client: "BillingCalls",
    email: Annotated[str, typer.Argument(metavar="ADDRESS", help="Who.", show_default=False)],
    role: Annotated[RoleName, typer.Option(help="What they will be.")] = "member",
    org: Org = None,
) -> Shown:
    """Send an invitation to an address; its mail has what `org accept` takes."""
    return _invitation(await client.invite(await _org_id(client, org), email=email, role=role))


async def invitations(client: "BillingCalls", org: Org = None, page: Paging = FIRST_PAGE) -> Shown:
    """List invitations, newest first, also those that are over."""
    return listed(
        await client.invitations(await _org_id(client, org), **page.asked),
        "id",
        ("address", "email"),
        "role",
        "status",
        "expires_at",
    )


async def resend_invitation(client: "BillingCalls", invitation_id: InvitationId, org: Org = None) -> Shown:
    """Send an invitation again. The mail before is of no use any more."""
    return _invitation(await client.resend_invitation(await _org_id(client, org), invitation_id))


async def revoke_invitation(client: "BillingCalls", invitation_id: InvitationId, org: Org = None) -> Shown:
    """Revoke an open invitation."""
    await client.revoke_invitation(await _org_id(client, org), invitation_id)
    return revoked(invitation_id)


async def accept(
    session: Session,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help=f"Read the token from stdin, else {INVITATION}, else ask.")
    ] = False,
) -> Shown:
    """Join an organization by the token of an invitation's mail."""
    client = await session.open_signed_in()
    token = ask_secret("invitation's token", session.environ, INVITATION, from_stdin=token_stdin).strip()
    if not token:
        raise CommandFailed("The token stands in the invitation's mail: nothing was done.")
    joined = await client.accept_invitation(token)
    return _one(joined, f"To work there: metergate auth token --org {joined.slug}")


async def role(client: "BillingCalls", user_id: UserId, role: Role, org: Org = None) -> Shown:
    """Give a member another role, none above your own. Their API keys lose what it lacks."""
    member = await client.set_role(await _org_id(client, org), user_id, role=role)
    return Shown(member.received, (f"{member.email} is {member.role} now.",))


async def remove(client: "BillingCalls", user_id: UserId, org: Org = None) -> Shown:
    """Remove a member, or leave. Their API keys of this organization are revoked."""
    await client.remove_member(await _org_id(client, org), user_id)
    return Shown({"user_id": user_id, "removed": True}, (f"{user_id} is no member any more.",))


async def transfer(
    client: "BillingCalls",
    user_id: UserId,
    become: Annotated[RoleName, typer.Option(help="What you are afterwards.")] = "admin",
    org: Org = None,
) -> Shown:
    """Make another member the owner in your place."""
    return _one(await client.transfer_ownership(await _org_id(client, org), user_id=user_id, become=become))


async def _org_id(client: "BillingCalls", org: str | None) -> str:
    """Return the id of the organization that was named, else of the token's. Raises `CommandFailed`."""
    if org is not None and org.startswith(_ID_PREFIX):
        return org
    profile = await client.who_am_i()
    if org is not None:
        return org_of(profile, org)
    if profile.org_id is None:
        raise CommandFailed("You belong to no organization: `metergate org create`.")
    return profile.org_id


def _one(organization: OrganizationShape, *more: str) -> Shown:
    rows = [
        ("organization", organization.id),
        ("slug", organization.slug),
        ("name", organization.name),
        ("account", organization.account_id),
        ("your role", organization.role or "-"),
        ("created", organization.created_at),
    ]
    return details(organization, rows, *more)


def _invitation(invitation: InvitationShape) -> Shown:
    text = f"{invitation.email} is invited as {invitation.role} until {invitation.expires_at}: {invitation.id}"
    return Shown(invitation.received, (text,))
