"""What tests of people share: users, organizations and sessions, made without a mail."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from billing.audit import Actor
from billing.database.connection import Database
from billing.identity.sessions import Origin, Sessions, TokenPair
from billing.identity.tokens import SigningKeys, TokenRules
from billing.principals import Caller

SOMEBODY = Actor("nobody", "192.0.2.1", "req_1")


@dataclass
class People:
    """Users on one database, and their sessions."""

    database: Database
    new_id: Callable[[], str]
    sessions: Sessions

    def gateway(self, database: Database, rules: TokenRules | None = None) -> Sessions:
        """Sessions of another gateway, over connections of its own, with the keys as it reads them itself."""
        of_keys = database.another(size=1, timeout_s=10)
        keys = SigningKeys(of_keys, rules or TokenRules(), self.new_id, time.monotonic)
        return Sessions(database, keys, self.new_id)

    async def user(self, email: str | None = "ann@example.com", **columns: Any) -> str:
        """A user with a verified address, who may sign in; columns are those of the table."""
        user_id = f"usr_{self.new_id()}"
        await self.database.execute(
            "INSERT INTO users (id, email, email_verified_at, status) VALUES ($1, $2, now(), 'active')", user_id, email
        )
        for name, value in columns.items():
            await self.database.execute(f"UPDATE users SET {name} = $2 WHERE id = $1", user_id, value)  # noqa: S608
        return user_id

    async def org(self, user_id: str, role: str = "owner", org_id: str | None = None) -> str:
        """An organization in which a user has a role."""
        if org_id is None:
            made = self.new_id()
            org_id, account_id = f"org_{made}", f"acc_{made}"
            await self.database.execute("INSERT INTO accounts (id, name, plan) VALUES ($1, 'Acme', 'free')", account_id)
            await self.database.execute(
                "INSERT INTO organizations (id, slug, name, account_id) VALUES ($1, $2, 'Acme', $3)",
                org_id,
                made.lower(),
                account_id,
            )
        await self.database.execute(
            "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, $3)", org_id, user_id, role
        )
        return org_id

    async def owner(self, email: str = "ann@example.com") -> tuple[str, str]:
        """A user and the organization that they own."""
        user_id = await self.user(email)
        return user_id, await self.org(user_id)

    async def sign_in(
        self, user_id: str, *, scopes: Iterable[str] | None = None, org_id: str | None = None
    ) -> TokenPair:
        async with self.database.transaction() as connection:
            return await self.sessions.start(
                connection, user_id, Origin("192.0.2.1", "tests"), org_id=org_id, scopes=scopes
            )

    async def caller(self, pair: Any, org_id: str | None = None) -> Caller | None:
        return await self.sessions.caller(pair if isinstance(pair, str) else pair.access_token, org_id)

    async def who(self, pair: Any, org_id: str | None = None) -> Caller:
        caller = await self.caller(pair, org_id)
        assert caller is not None
        return caller

    async def audited(self, action: str) -> list[dict[str, Any]]:
        rows = await self.database.rows("SELECT * FROM audit_log WHERE action = $1 ORDER BY id", action)
        return [dict(row) for row in rows]
