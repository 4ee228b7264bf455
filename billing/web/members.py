"""Members: who belongs to the organization and what each has spent, invitations, roles, limits, leaving, and giving the
organization to another owner.

Who may do what to whom is decided by the functions of /api/orgs, which are told the visitor's organization.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    see_invitation,
    set_member_quotas,
    transfer_ownership,
    update_member,
    update_organization,
)
from billing.permissions import MEMBERS_READ, MEMBERS_WRITE, ORG_TRANSFER, ORG_WRITE, RANK, Role
from billing.schemas.accounts import NewQuotas
from billing.schemas.base import PageQuery
from billing.schemas.people import NewInvitation, NewOrganization, OrganizationPatch, RolePatch, Transfer
from billing.web.forms import LIMIT_VALUES, quota_rows, quotas_typed, spent_by
from billing.web.pages import NOTICES, Page, View, Visit, Who, does, filled, page, shows

if TYPE_CHECKING:
    from aiohttp import web

# Invitations that the page of members has.
INVITATIONS: Final = 100
NOTICES.update(
    {
        "invited": "The invitation is on its way by mail.",
        "invitation-revoked": "The invitation is revoked: its link no longer works.",
        "member-removed": "They are no longer a member, and their keys in this organization are revoked.",
        "left": "You have left that organization.",
        "transferred": "The organization has a new owner.",
        "joined": "You belong to this organization now: these are its pages.",
        "founded": "The organization is created, with an account of its own: these are its pages.",
    }
)
_WORDS: Final[Mapping[Role, str]] = {
    "owner": "owner: everything, including transferring the organization",
    "admin": "admin: members, all keys, buying",
    "member": "member: own keys and requests",
    "viewer": "viewer: sees everything, changes nothing",
}


def _roles(visit: Visit) -> list[tuple[str, str]]:
    """Return the roles that the visitor may give: none above their own."""
    own = RANK[visit.caller.role] if visit.caller.role is not None else -1
    return [(role, words) for role, words in _WORDS.items() if RANK[role] <= own]


async def members(visit: Visit) -> View:
    """Show members with what the keys of each have spent this month, and invitations."""
    call, (since, spent) = visit.call, await spent_by(visit, "user")
    page, invitations = await list_members(call, visit.query(PageQuery)), PageQuery(limit=INVITATIONS)
    invited = (await list_invitations(call, invitations)).data
    plan = None if visit.account is None else visit.services.plans.get(visit.account.plan)
    is_whole = page.next_cursor is None and not visit.request.query.get("cursor")
    values = {
        "organization": await get_organization(call),
        "page": page,
        "invitations": invited,
        "seats": plan.users if plan is not None and is_whole else None,
        "taken": len(page.data) + sum(each.status == "open" for each in invited),
        "roles": _roles(visit),
        "spent": spent,
        "since": since,
    }
    return View("members.html", values)


async def member(visit: Visit) -> View:
    """Show a member: role, limits, and what they have spent."""
    found, limits = await get_member(visit.call), await get_member_quotas(visit.call)
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


def _limits(visit: Visit) -> NewQuotas:
    return visit.body(NewQuotas, quotas=quotas_typed(visit))


async def remove(visit: Visit) -> web.Response:
    """Remove a member, or leave."""
    is_self = visit.call.id("user_id") == visit.caller.id
    await remove_member(visit.call)
    return visit.see("/", "left") if is_self else visit.see("/members", "member-removed")


def _new_owner(visit: Visit) -> Transfer:
    return visit.body(Transfer, user_id=visit.call.id("user_id"), become=visit.typed("become", "admin"))


async def invitation(visit: Visit) -> View:
    """Show who invites which address to what, and the button that accepts it, or where to sign in for it: to look at it
    does nothing."""
    return View("invitation.html", {"seen": await see_invitation(visit.call), "here": visit.path})


async def accept(visit: Visit) -> web.Response:
    """Accept an invitation: the pages are about its organization then."""
    return await _chosen(visit, (await accept_invitation(visit.call)).id, "joined")


async def found(visit: Visit) -> web.Response:
    """Found an organization: the pages are about it then."""
    made = await create_organization(visit.call, visit.body(NewOrganization, name=visit.field("name") or ""))
    return await _chosen(visit, made.id, "founded")


async def _chosen(visit: Visit, org_id: str, notice: str) -> web.Response:
    if visit.caller.session_id is not None:
        await visit.services.browsers.choose(visit.caller.session_id, org_id)
    return visit.see("/", notice)


_MEMBER: Final = "/members/{user_id}"
_INVITE: Final = does(create_invitation, "/members", "invited", filled(NewInvitation, email="", role="member"))
_RENAME: Final = does(update_organization, "/members", "saved", filled(OrganizationPatch, name=""))
_TRANSFER: Final = does(transfer_ownership, "/members", "transferred", _new_owner)
ROUTES: Final[tuple[Page, ...]] = (
    *page(
        "/members",
        members,
        ("/invite", _INVITE),
        ("/invitations/{invitation_id}/resend", does(resend_invitation, "/members", "invited")),
        ("/invitations/{invitation_id}/revoke", does(revoke_invitation, "/members", "invitation-revoked")),
        scope=MEMBERS_READ,
        changes=MEMBERS_WRITE,
    ),
    Page("POST", "/members/name", _RENAME, scope=ORG_WRITE, again=members),
    *page(
        _MEMBER,
        member,
        ("/role", does(update_member, _MEMBER, "saved", filled(RolePatch, role=""))),
        ("/limits", does(set_member_quotas, _MEMBER, "saved", _limits)),
        scope=MEMBERS_READ,
        changes=MEMBERS_WRITE,
    ),
    Page("POST", f"{_MEMBER}/remove", remove, scope=MEMBERS_READ, again=member),
    Page("POST", f"{_MEMBER}/transfer", _TRANSFER, scope=ORG_TRANSFER, again=member),
    *page("/organizations/new", shows("organization_new.html"), ("", found), who=Who.person),
    Page("GET", "/invitations/{token}", invitation, Who.anyone),
    Page("POST", "/invitations/{token}", accept, Who.person, again=invitation),
)
