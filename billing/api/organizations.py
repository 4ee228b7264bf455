"""/api/orgs, /api/invitations and /api/roles: organizations, who belongs to them, and who may.

What a person may do is what their role in the organization of the path allows, whatever organization their token names;
an API key reads its own. Another organization is not found, whoever asks (`billing.api.route`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.api.operations import OrganizationOperations
from billing.api.requests import InsufficientScope, listing, page_asked
from billing.api.route import Call, serves
from billing.identity.organizations import Acting, Member, Organization, check_acting, locked, role_of
from billing.mail import parse_email
from billing.permissions import MEMBERS_WRITE, ORG_WRITE, ROLES, SCOPES
from billing.quotas import parse_quotas
from billing.schemas.accounts import NewQuotas, UserQuotasShape
from billing.schemas.people import (
    InvitationShape,
    MemberShape,
    NewInvitation,
    NewOrganization,
    OrganizationPatch,
    OrganizationShape,
    RolePatch,
    RolesShape,
    SeenInvitationShape,
    Transfer,
)

if TYPE_CHECKING:
    from billing.database.connection import Connection
    from billing.schemas.base import Listing, PageQuery

_NARROW: Final = f'This needs a token with {ORG_WRITE}: `metergate auth token --scope "{ORG_WRITE}"`.'


@serves(OrganizationOperations.roles)
async def get_roles(call: Call) -> RolesShape:
    """Return the table of permissions. What each role of an organization may do, as scopes, and what each allows."""
    return RolesShape(roles={role: sorted(scopes) for role, scopes in ROLES.items()}, scopes=dict(SCOPES))


@serves(OrganizationOperations.organizations)
async def list_organizations(call: Call, query: PageQuery) -> Listing[OrganizationShape]:
    """List the organizations that you belong to, newest first."""
    page = await call.services.organizations.page(call.caller.id, *page_asked(query))
    return listing(page, lambda each: OrganizationShape.of(each[0], role=each[1]))


@serves(OrganizationOperations.create_organization)
async def create_organization(call: Call, body: NewOrganization) -> OrganizationShape:
    """Create an organization with a billing account of its own. You are its owner."""
    caller = call.caller
    if caller.narrowed is not None and ORG_WRITE not in caller.narrowed:
        raise InsufficientScope(_NARROW, required_scope=ORG_WRITE)
    made = await call.services.organizations.create(caller.id, _one_line(body.name), actor=call.actor)
    return OrganizationShape.of(made, role="owner")


@serves(OrganizationOperations.organization)
async def get_organization(call: Call) -> OrganizationShape:
    """Return an organization."""
    found = await call.services.organizations.get(call.id("org_id"))
    return OrganizationShape.of(found, role=call.caller.role)


@serves(OrganizationOperations.update_organization)
async def update_organization(call: Call, body: OrganizationPatch) -> OrganizationShape:
    """Change an organization's name or slug."""
    name, org_id, acting = _one_line(body.name) if body.name else None, call.id("org_id"), _acting(call)

    async def check(connection: Connection) -> None:
        await check_acting(connection, org_id, acting, ORG_WRITE)

    changes = {"name": name, "slug": body.slug or None}
    after = await call.services.organizations.update(org_id, **changes, actor=call.actor, check=check)
    return OrganizationShape.of(after, role=call.caller.role)


@serves(OrganizationOperations.transfer_ownership)
async def transfer_ownership(call: Call, body: Transfer) -> OrganizationShape:
    """Give an organization to another member. They are its owner then, and you what `become` says."""
    after = await call.services.members.transfer(call.id("org_id"), body.user_id, body.become, _acting(call))
    return OrganizationShape.of(after, role=body.become)


@serves(OrganizationOperations.members)
async def list_members(call: Call, query: PageQuery) -> Listing[MemberShape]:
    """List the members of an organization, those first who registered last."""
    return listing(await call.services.members.page(call.id("org_id"), *page_asked(query)), MemberShape.of)


@serves(OrganizationOperations.member)
async def get_member(call: Call) -> MemberShape:
    """Return a member."""
    return MemberShape.of(await call.services.members.get(call.id("org_id"), call.id("user_id")))


@serves(OrganizationOperations.set_role)
async def update_member(call: Call, body: RolePatch) -> MemberShape:
    """Give a member another role. None above your own; their API keys lose what it lacks, and one that could call
    models and can no more is revoked."""
    org_id, user_id = call.id("org_id"), call.id("user_id")
    return MemberShape.of(await call.services.members.set_role(org_id, user_id, body.role, _acting(call)))


@serves(OrganizationOperations.remove_member)
async def remove_member(call: Call) -> None:
    """Remove a member, or leave. Their API keys of this organization are revoked. The last owner can't leave."""
    await call.services.members.remove(call.id("org_id"), call.id("user_id"), _acting(call))


@serves(OrganizationOperations.member_quotas)
async def get_member_quotas(call: Call) -> UserQuotasShape:
    """Return the limits of a member, which all of their keys in the organization share."""
    organization, member = await _place(call)
    return UserQuotasShape.of(await call.services.member_limits.get(organization.account_id, member.user_id))


@serves(OrganizationOperations.set_member_quotas)
async def set_member_quotas(call: Call, body: NewQuotas) -> UserQuotasShape:
    """Replace all limits of a member, which all of their keys in the organization share; none: no limit."""
    organization, member = await _place(call)
    quotas, acting = parse_quotas(body.quotas), _acting(call)

    async def check(connection: Connection) -> None:
        await locked(connection, organization.id)
        role = await role_of(connection, organization.id, member.user_id)
        await check_acting(connection, organization.id, acting, MEMBERS_WRITE, *([] if role is None else [role]))

    given = organization.account_id, member.user_id, quotas
    return UserQuotasShape.of(await call.services.member_limits.set(*given, actor=call.actor, check=check))


async def _place(call: Call) -> tuple[Organization, Member]:
    org_id = call.id("org_id")
    return await call.services.organizations.get(org_id), await call.services.members.get(org_id, call.id("user_id"))


@serves(OrganizationOperations.invitations)
async def list_invitations(call: Call, query: PageQuery) -> Listing[InvitationShape]:
    """List invitations, newest first, also those that are over."""
    return listing(await call.services.invitations.page(call.id("org_id"), *page_asked(query)), InvitationShape.of)


@serves(OrganizationOperations.invite)
async def create_invitation(call: Call, body: NewInvitation) -> InvitationShape:
    """Send an invitation to an address. The mail's link is good for 7 days, once, for who has proven that address."""
    email = parse_email(body.email)
    return InvitationShape.of(
        await call.services.invitations.invite(call.id("org_id"), email, body.role, _acting(call))
    )


@serves(OrganizationOperations.resend_invitation)
async def resend_invitation(call: Call) -> InvitationShape:
    """Send an invitation again. The link of the mail before ends."""
    org_id, invitation_id = call.id("org_id"), call.id("invitation_id")
    return InvitationShape.of(await call.services.invitations.resend(org_id, invitation_id, _acting(call)))


@serves(OrganizationOperations.revoke_invitation)
async def revoke_invitation(call: Call) -> None:
    """Revoke an invitation that is open."""
    await call.services.invitations.revoke(call.id("org_id"), call.id("invitation_id"), _acting(call))


@serves(OrganizationOperations.seen_invitation)
async def see_invitation(call: Call) -> SeenInvitationShape:
    """Return who invites which address to what, for whoever has the mail. To look at it accepts nothing."""
    return SeenInvitationShape.of(await call.services.invitations.seen(call.id("token")))


@serves(OrganizationOperations.accept_invitation)
async def accept_invitation(call: Call) -> OrganizationShape:
    """Accept an invitation to your address, which you have verified."""
    organization, role = await call.services.invitations.accept(call.id("token"), call.caller.id, call.actor)
    return OrganizationShape.of(organization, role=role)


def _one_line(name: str) -> str:
    return " ".join(name.split())


def _acting(call: Call) -> Acting:
    return Acting(call.caller.id, call.caller.scopes, call.actor)
