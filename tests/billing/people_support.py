"""Registering and signing in over a test's database: cheap hashes, tokens by a shared secret, mails read from the
outbox."""

import re
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from argon2 import PasswordHasher

from billing.audit import Actor
from billing.database.connection import Connection
from billing.identity.codes import Codes
from billing.identity.credentials import Credentials, People
from billing.identity.directories import Directories
from billing.identity.organizations import Members, found, most_users
from billing.identity.passwords import Passwords
from billing.identity.sessions import Sessions
from billing.identity.sign_in import SignIn
from billing.identity.tokens import SigningKeys, TokenRules
from billing.identity.users import Users
from billing.permissions import Approval
from billing.plans import DEFAULT_PLAN
from billing.scim.directory import Directory
from billing.scim.service import PREFIX, Scim, ScimLimit
from billing.scim.tokens import ScimTokens
from billing.settings import CodeSettings, ScimSettings
from tests.billing.support import PLANS, Billing

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
SECRET = "a secret of the tests, of 32 bytes or more"
GOOD = "tulip anvil quartz rowing"
OTHER = "harbor velvet comet sieve"
ADA = "ada@example.com"
EVE = "eve@example.com"


@dataclass
class Clock:
    """Unix seconds, which stand until a test turns them on: a code of an app is not over while a test runs."""

    at_s: float = 1_900_000_010.0

    def __call__(self) -> float:
        return self.at_s


@dataclass(frozen=True)
class Registry:
    """People on one database, and what the tests look at."""

    billing: Billing
    people: People
    sign_in: SignIn
    credentials: Credentials
    sessions: Sessions
    directories: Directories
    clock: Clock = field(default_factory=Clock)

    async def mails(self, recipient: str | None = None) -> list[tuple[str, str]]:
        """Recipients' mails, the oldest first: subject and text."""
        rows = await self.billing.database.rows(
            "SELECT subject, body FROM mail_outbox WHERE $1::text IS NULL OR recipient = $1 ORDER BY id", recipient
        )
        return [(row["subject"], row["body"]) for row in rows]

    async def mailed_code(self, recipient: str = ADA) -> str:
        """The code of the last mail, which is not in its subject: that is kept, and shown on locked screens."""
        subject, body = (await self.mails(recipient))[-1]
        [code] = re.findall(r"\b[0-9]{6}\b", body)
        assert code not in subject
        return str(code)

    async def mailed_token(self, recipient: str = ADA) -> str:
        """The token of the last mail."""
        found = re.search(r"^otc_\S+$", (await self.mails(recipient))[-1][1], re.MULTILINE)
        return found[0]

    async def audited(self, action: str) -> list[dict[str, Any]]:
        rows = await self.billing.database.rows("SELECT * FROM audit_log WHERE action = $1 ORDER BY id", action)
        return [dict(row) for row in rows]


def registry_of(billing: Billing, approval: Approval = "verified", rules: CodeSettings | None = None) -> Registry:
    """People under a policy; `close` their passwords' threads afterwards."""
    database, new_id, clock = billing.database, billing.new_id, Clock()
    keys = SigningKeys(database, TokenRules(secret=SECRET), new_id, time.monotonic)
    sessions = Sessions(database, keys, new_id)
    people = People(
        database,
        Users(database, new_id, approval),
        Codes(database, new_id, rules or CodeSettings(mails_per_address=20)),
        Passwords(CHEAP),
        sessions,
        billing.change_notifier,
        new_id,
        clock,
    )

    async def own(connection: Connection, user_id: str, name: str, actor: Actor) -> object:
        return await found(connection, new_id, DEFAULT_PLAN, user_id=user_id, name=name, personal=True, actor=actor)

    directories = directories_of(billing)
    sign_in = SignIn(people, own, directories)
    return Registry(billing, people, sign_in, Credentials(people), sessions, directories, clock)


def directories_of(billing: Billing) -> Directories:
    """What directories say of people, by the tests' plans."""
    members = Members(billing.database, billing.change_notifier, 20)
    return Directories(billing.database, members, billing.change_notifier, partial(most_users, PLANS, DEFAULT_PLAN))


def scim_of(registry: Registry, settings: ScimSettings | None = None) -> Scim:
    """What serves the directories of organizations."""
    billing, settings = registry.billing, settings or ScimSettings(scim_requests_per_s=10_000)
    limit = ScimLimit(settings, time.monotonic)
    return Scim(
        registry.directories,
        Directory(billing.database, registry.directories, billing.new_id, settings, limit.spend),
        ScimTokens(billing.database, billing.new_id, settings.scim_tokens),
        limit,
        f"https://gateway.example.com{PREFIX}",
    )
