"""People and organizations of the tests, straight in Postgres."""

from billing.audit import SYSTEM, Actor
from billing.identity.organizations import Acting, Organization, found
from billing.permissions import SCOPES, Role
from tests.billing.support import Billing


async def new_user(billing: Billing, email: str, *, verified: bool = True, status: str = "active") -> str:
    """A person with an address, and no organization."""
    user_id = f"usr_{billing.new_id()}"
    await billing.database.execute(
        "INSERT INTO users (id, email, email_verified_at, status) VALUES ($1, $2, CASE WHEN $3 THEN now() END, $4)",
        user_id,
        email,
        verified,
        status,
    )
    return user_id


async def new_organization(billing: Billing, name: str, owner: str, *, plan: str = "free") -> Organization:
    """An organization with one owner."""
    async with billing.database.transaction() as connection:
        return await found(connection, billing.new_id, plan, user_id=owner, name=name, personal=False, actor=SYSTEM)


async def join(billing: Billing, organization: Organization, user_id: str, role: Role) -> None:
    """Make a person a member."""
    await billing.database.execute(
        "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, $3)", organization.id, user_id, role
    )


async def roles(billing: Billing, organization: Organization) -> dict[str, str]:
    """Return the members of an organization with their roles."""
    rows = await billing.database.rows("SELECT user_id, role FROM memberships WHERE org_id = $1", organization.id)
    return {row["user_id"]: row["role"] for row in rows}


def acting(user_id: str, *scopes: str) -> Acting:
    """A person whose token was narrowed to `scopes`; without any it was not."""
    return Acting(user_id, frozenset(scopes or SCOPES), Actor(f"user:{user_id}"))


async def mails(billing: Billing, recipient: str) -> list[str]:
    """The texts that wait to be sent to somebody, oldest first."""
    rows = await billing.database.rows("SELECT body FROM mail_outbox WHERE recipient = $1 ORDER BY id", recipient)
    return [row["body"] for row in rows]


async def token_sent(billing: Billing, recipient: str) -> str:
    """The token of the last invitation that somebody was sent."""
    return (await mails(billing, recipient))[-1].partition("org accept`:")[2].split()[0]
