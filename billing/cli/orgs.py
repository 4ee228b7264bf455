"""`metergate org`: organizations, who belongs to them, invitations. Without --org a command is about the organization
of the token, which `metergate auth token --org` changes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from billing.api.operations import OrganizationOperations
from billing.cli.calls import (
    Org,
    add_person_calls,
    add_session_calls,
    argument,
    command_of,
    ended,
    option,
    organization_id,
    revoked,
)
from billing.cli.commands import group
from billing.cli.directories import add_scim
from billing.cli.options import given
from billing.cli.output import CommandFailed, Shown, columns, facts, says
from billing.cli.prompts import ask_secret
from billing.cli.session import FindSession, Session

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.people import OrganizationShape

INVITATION: Final = "METERGATE_INVITATION"
_MEMBER: Final = argument("A member, usr_...", "USER_ID")
_INVITED: Final = says("{email} is invited as {role} until {expires_at}: {id}")

_shown: Final = facts(
    ("organization", "id"), "slug", "name", ("account", "account_id"), ("your role", "role"), "created_at"
)


def _shown_new(organization: "OrganizationShape", given: Mapping[str, Any]) -> Shown:
    shown, then = _shown(organization, given), f"To work there: metergate auth token --org {organization.slug}"
    return Shown(shown.data, (*shown.parts, then))


def add_orgs(app: typer.Typer, find: FindSession) -> None:
    """Add the group `org`."""
    org = group("Organizations, their members, invitations.")
    add_person_calls(
        org,
        find,
        list=command_of(
            OrganizationOperations.organizations,
            "List your organizations, newest first.",
            columns("slug", "name", "role", "id", "account_id"),
        ),
        show=command_of(OrganizationOperations.organization, "Show an organization.", _shown),
        create=command_of(
            OrganizationOperations.create_organization,
            "Create an organization with an account of its own. You are its owner.",
            _shown_new,
            {"name": argument("Its name.")},
        ),
        rename=rename,
        members=command_of(
            OrganizationOperations.members,
            "List the members of an organization.",
            columns("user_id", ("address", "email"), "name", "role", ("since", "created_at")),
        ),
    )
    _add_invitations(org, find)
    _add_memberships(org, find)
    add_scim(org, find)
    app.add_typer(org, name="org")


def _add_invitations(org: typer.Typer, find: FindSession) -> None:
    invitation_id = argument("inv_...", "INVITATION_ID")
    add_person_calls(
        org,
        find,
        invite=command_of(
            OrganizationOperations.invite,
            "Send an invitation to an address. The mail has the token for `org accept`.",
            _INVITED,
            {
                "email": argument("Who.", "ADDRESS"),
                "role": option(None, "What they will be."),
            },
        ),
        invitations=command_of(
            OrganizationOperations.invitations,
            "List invitations, newest first. Includes those that are over.",
            columns("id", ("address", "email"), "role", "status", "expires_at"),
        ),
        resend_invitation=command_of(
            OrganizationOperations.resend_invitation,
            "Send an invitation again. The earlier mail no longer works.",
            _INVITED,
            {"invitation_id": invitation_id},
        ),
        revoke_invitation=command_of(
            OrganizationOperations.revoke_invitation,
            "Revoke an open invitation.",
            revoked,
            {"invitation_id": invitation_id},
        ),
    )
    add_session_calls(org, find, accept=accept)


def _add_memberships(org: typer.Typer, find: FindSession) -> None:
    add_person_calls(
        org,
        find,
        role=command_of(
            OrganizationOperations.set_role,
            "Give a member another role, none above your own. Their API keys lose what it lacks.",
            says("{email} is {role} now."),
            {
                "user_id": _MEMBER,
                "role": argument("What they may do."),
            },
        ),
        remove=command_of(
            OrganizationOperations.remove_member,
            "Remove a member, or leave. Their API keys of this organization are revoked.",
            ended("removed", "is no longer a member.", "user_id"),
            {"user_id": _MEMBER},
        ),
        transfer=command_of(
            OrganizationOperations.transfer_ownership,
            "Make another member the owner in your place.",
            _shown,
            {
                "user_id": _MEMBER,
                "become": option(None, "What you are afterwards."),
            },
        ),
    )


async def rename(
    client: "BillingCalls",
    name: Annotated[str | None, typer.Argument(help="Its name.", show_default=False)] = None,
    slug: Annotated[str | None, typer.Option(metavar="SLUG", help="Its name in addresses, such as acme-corp.")] = None,
    org: Org = None,
) -> Shown:
    """Change an organization's name, its slug, or both."""
    if name is None and slug is None:
        raise typer.BadParameter("give a name, --slug, or both")
    changed = await client.update_organization(await organization_id(client, org), **given(name=name, slug=slug))
    return _shown(changed, {})


async def accept(
    session: Session,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help=f"Read the token from stdin, else {INVITATION}, else ask.")
    ] = False,
) -> Shown:
    """Join an organization by an invitation's token."""
    client = await session.open_signed_in()
    token = ask_secret("invitation's token", session.environ, INVITATION, from_stdin=token_stdin).strip()
    if not token:
        raise CommandFailed("Nothing was done: the token is in the invitation's mail.")
    return _shown_new(await client.accept_invitation(token), {})
