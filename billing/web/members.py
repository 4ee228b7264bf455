"""Members: who belongs to the organization and what each has spent, invitations, roles, limits, leaving, and giving the
organization to another owner.

Who may do what to whom is decided by the functions of /api/orgs, which are told the visitor's organization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.api.organizations import (
    accept_invitation,
    create_invitation,
    create_organization,
    get_member,
    get_member_quotas,
    get_organization,
    list_invitations,
    list_members,
    remove_member,
    resend_invitation,
    revoke_invitation,
    set_member_quotas,
    transfer_ownership,
    update_member,
    update_organization,
)
from billing.identity.permissions import MEMBERS_READ, MEMBERS_WRITE, ORG_TRANSFER, ORG_WRITE, RANK
from billing.schemas.accounts import NewQuotas
from billing.schemas.base import PageQuery
from billing.schemas.organizations import NewInvitation, NewOrganization, OrganizationPatch, RolePatch, Transfer
from billing.web.forms import LIMIT_VALUES, quota_rows, quotas_typed, spent_by
from billing.web.visits import NOTICES, Page, View, Visit, Who

if TYPE_CHECKING:
    from aiohttp import web

    from billing.api.route import Call

# Invitations that the page of members has.
INVITATIONS: Final = 100
NOTICES.update(
    {
        "invited": "The invitation is on its way by mail.",
        "invitation-revoked": "The invitation is revoked: its link does nothing any more.",
        "member-removed": "They are no member any more, and their keys of this organization are revoked.",
        "left": "You have left that organization.",
        "transferred": "The organization has another owner now.",
        "joined": "You belong to this organization now: choose it at the top.",
        "founded": "The organization is founded, with an account of its own: choose it at the top.",
    }
)
_WORDS: Final = {
    "owner": "owner: everything, and gives the organization to others",
    "admin": "admin: members, all keys, buying",
    "member": "member: own keys and requests",
    "viewer": "viewer: sees, and changes nothing",
}


def _of_organization(visit: Visit) -> Call:
    """Return the call of a function whose path names the organization: that of the pages."""
    visit.request.match_info["org_id"] = visit.caller.org_id or ""
    return visit.call


def _roles(visit: Visit, *, below: bool = True) -> list[tuple[str, str]]:
    """Return the roles that the visitor may give: none above their own."""
    own = RANK[visit.caller.role] if visit.caller.role is not None else -1
    return [(role, words) for role, words in _WORDS.items() if not below or RANK[role] <= own]  # type: ignore[index]


async def members(visit: Visit) -> View:
    """Show members with what the keys of each have spent this month, and invitations."""
    call = _of_organization(visit)
    since, spent = await spent_by(visit, "user")
    values = {
        "organization": await get_organization(call),
        "page": await list_members(call, visit.query(PageQuery)),
        "invitations": (await list_invitations(call, PageQuery(limit=INVITATIONS))).data,
        "roles": _roles(visit),
        "spent": spent,
        "since": since,
    }
    return View("members.html", values)


async def invite(visit: Visit) -> web.Response:
    """Send an invitation to an address."""
    body = visit.body(NewInvitation, email=visit.field("email") or "", role=visit.typed("role", "member"))
    await create_invitation(_of_organization(visit), body)
    return visit.see("/members", "invited")


async def resend(visit: Visit) -> web.Response:
    """Send an invitation again."""
    await resend_invitation(_of_organization(visit))
    return visit.see("/members", "invited")


async def uninvite(visit: Visit) -> web.Response:
    """Revoke an invitation."""
    await revoke_invitation(_of_organization(visit))
    return visit.see("/members", "invitation-revoked")


async def member(visit: Visit) -> View:
    """Show a member: role, limits, and what they have spent."""
    call = _of_organization(visit)
    found, limits = await get_member(call), await get_member_quotas(call)
    since, spent = await spent_by(visit, "user")
    is_self = found.user_id == visit.caller.id
    values = {
        "member": found,
        "quotas": limits.quotas,
        "rows": quota_rows(visit, limits.quotas),
        "roles": _roles(visit),
        "is_self": is_self,
        "may_change": visit.may(MEMBERS_WRITE) and (found.role, _WORDS[found.role]) in _roles(visit),
        "may_transfer": visit.may(ORG_TRANSFER) and not is_self,
        "spent": None if spent is None else spent.get(found.user_id, 0),
        "since": since,
        **LIMIT_VALUES,
    }
    return View("member.html", values)


async def set_role(visit: Visit) -> web.Response:
    """Give a member another role."""
    await update_member(_of_organization(visit), visit.body(RolePatch, role=visit.typed("role")))
    return visit.see(f"/members/{visit.call.id('user_id')}", "saved")


async def set_limits(visit: Visit) -> web.Response:
    """Replace the limits of a member."""
    await set_member_quotas(_of_organization(visit), visit.body(NewQuotas, quotas=quotas_typed(visit)))
    return visit.see(f"/members/{visit.call.id('user_id')}", "saved")


async def remove(visit: Visit) -> web.Response:
    """Remove a member, or leave."""
    is_self = visit.call.id("user_id") == visit.caller.id
    await remove_member(_of_organization(visit))
    return visit.see("/", "left") if is_self else visit.see("/members", "member-removed")


async def transfer(visit: Visit) -> web.Response:
    """Give the organization to a member, who is its owner then."""
    given = {"user_id": visit.call.id("user_id"), "become": visit.typed("become", "admin")}
    await transfer_ownership(_of_organization(visit), visit.body(Transfer, **given))
    return visit.see("/members", "transferred")


async def rename(visit: Visit) -> web.Response:
    """Change the organization's name."""
    await update_organization(_of_organization(visit), visit.body(OrganizationPatch, name=visit.field("name") or ""))
    return visit.see("/members", "saved")


async def show_new_organization(visit: Visit) -> View:
    """Show where an organization is founded."""
    return View("organization_new.html")


async def found_organization(visit: Visit) -> web.Response:
    """Create an organization of the caller's own."""
    await create_organization(visit.call, visit.body(NewOrganization, name=visit.field("name") or ""))
    return visit.see("/", "founded")


async def invitation(visit: Visit) -> View:
    """Show the button that accepts an invitation: to look at it does nothing."""
    return View("invitation.html", {"token": visit.request.match_info["token"]})


async def accept(visit: Visit) -> web.Response:
    """Accept an invitation."""
    await accept_invitation(visit.call)
    return visit.see("/", "joined")


_MEMBER: Final = "/members/{user_id}"
_INVITATION: Final = "/members/invitations/{invitation_id}"
ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/members", members, scope=MEMBERS_READ),
    Page("POST", "/members/invite", invite, scope=MEMBERS_WRITE, again=members),
    Page("POST", "/members/name", rename, scope=ORG_WRITE, again=members),
    Page("POST", f"{_INVITATION}/resend", resend, scope=MEMBERS_WRITE, again=members),
    Page("POST", f"{_INVITATION}/revoke", uninvite, scope=MEMBERS_WRITE, again=members),
    Page("GET", _MEMBER, member, scope=MEMBERS_READ),
    Page("POST", f"{_MEMBER}/role", set_role, scope=MEMBERS_WRITE, again=member),
    Page("POST", f"{_MEMBER}/limits", set_limits, scope=MEMBERS_WRITE, again=member),
    Page("POST", f"{_MEMBER}/remove", remove, scope=MEMBERS_READ, again=member),
    Page("POST", f"{_MEMBER}/transfer", transfer, scope=ORG_TRANSFER, again=member),
    Page("GET", "/organizations/new", show_new_organization, Who.person),
    Page("POST", "/organizations/new", found_organization, Who.person, again=show_new_organization),
    Page("GET", "/invitations/{token}", invitation, Who.person),
    Page("POST", "/invitations/{token}", accept, Who.person, again=invitation),
)
