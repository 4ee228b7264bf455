"""/api/admin/users: people, for operators: who is let in, and who is an operator; and who owns an organization that
nobody looks after any more."""

from typing import Final

from billing.api.errors import BadRequest
from billing.api.requests import listing, page_asked
from billing.api.route import Access, Call, Route
from billing.shapes.admin_users import UserDetailShape, UserPatch, UserShape, UsersQuery, user_detail_shape, user_shape
from billing.shapes.base import Listing
from billing.shapes.organizations import MemberShape, member_shape

USERS: Final = "/api/admin/users"
USER: Final = "/api/admin/users/{user_id}"
OWNER: Final = "/api/admin/orgs/{org_id}/owners/{user_id}"


async def list_users(call: Call, query: UsersQuery) -> Listing[UserShape]:
    """List people, newest first."""
    email = None if query.email is None else query.email.strip().lower()
    page = await call.services.users.page(*page_asked(query), status=query.status, email=email)
    return listing(page, user_shape)


async def get_user(call: Call) -> UserDetailShape:
    """Return a user, and the organizations that they belong to."""
    return await _detail(call, call.id("user_id"))


async def update_user(call: Call, body: UserPatch) -> UserDetailShape:
    """Let a user in or out, or make them an operator or none. Who is disabled is signed out everywhere at once, and is
    no operator any more; API keys stay, unless they are to be revoked, too."""
    user_id, users = call.id("user_id"), call.services.users
    before = await users.get(user_id)
    if body.status == "disabled" and body.operator is True:
        raise BadRequest("Who is disabled can't be an operator.", "operator")
    if body.status == "disabled":
        await users.disable(user_id, call.actor)
    elif body.status == "active":
        await (users.enable if before.status == "disabled" else users.approve)(user_id, call.actor)
    if isinstance(body.operator, bool):
        await users.set_operator(user_id, body.operator, call.actor)
    if body.revoke_keys:
        await call.services.credentials.revoke_keys(user_id, call.actor)
    return await _detail(call, user_id)


async def appoint_owner(call: Call) -> MemberShape:
    """Make a user an owner of an organization, whether they are a member or not: where its only owner was disabled,
    nobody else can."""
    return member_shape(await call.services.members.appoint(call.id("org_id"), call.id("user_id"), call.actor))


async def _detail(call: Call, user_id: str) -> UserDetailShape:
    users = call.services.users
    return user_detail_shape(await users.get(user_id), await users.organizations(user_id))


ROUTES: Final = (
    Route("GET", USERS, list_users, Access.admin, Listing[UserShape], query=UsersQuery),
    Route("GET", USER, get_user, Access.admin, UserDetailShape),
    Route("PATCH", USER, update_user, Access.admin, UserDetailShape, body=UserPatch),
    Route("PUT", OWNER, appoint_owner, Access.admin, MemberShape, errors=(404, 409)),
)
