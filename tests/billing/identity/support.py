"""People and organizations of the tests, straight in Postgres."""

from billing.audit import SYSTEM
from billing.identity.organizations import Organization, found
from billing.identity.permissions import Role
from tests.billing.support import Billing


async def new_user(billing: Billing, email: str, *, verified: bool = True, status: str = "active") -> str:
    """A person with an address, and no organization."""
    user_id = f"usr_{billing.new_id()}"
    await billing.database.execute(
        "INSERT INTO users (id, email, email_verified_at, status) VALUES ($1, $2, CASE WHEN $3 THEN now() END, $4)",
        *(user_id, email, verified, status),
    )
    return user_id


async def new_organization(billing: Billing, name: str, owner: str, *, plan: str = "free") -> Organization:
    """An organization with one owner."""
    async with billing.database.transaction() as connection:
        return await found(*(connection, billing.new_id, plan), user_id=owner, name=name, personal=False, actor=SYSTEM)


async def join(billing: Billing, organization: Organization, user_id: str, role: Role) -> None:
    """Make a person a member."""
    await billing.database.execute(
        "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, $3)", organization.id, user_id, role
    )


async def roles(billing: Billing, organization: Organization) -> dict[str, str]:
    """Who belongs to it, and as what."""
    rows = await billing.database.rows("SELECT user_id, role FROM memberships WHERE org_id = $1", organization.id)
    return {row["user_id"]: row["role"] for row in rows}
