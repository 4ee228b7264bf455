"""What signing in and credentials share: who asks, what they show, and what people are changed by.

This file owns that each try at a password or a second factor is counted before it is looked at, and that a code of an
authenticator app or a recovery code is good once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol

from billing import audit
from billing.change_notifier import ChangeNotifier
from billing.database.connection import Database, queries
from billing.identity import letters
from billing.identity.codes import Codes
from billing.identity.passwords import Passwords
from billing.identity.sealing import Sealer
from billing.identity.totp import matching_step
from billing.identity.users import Users
from billing.mail import enqueue

if TYPE_CHECKING:
    from billing.database.connection import Connection
    from billing.identity.letters import Letter
    from billing.identity.passwords import Verdict
    from billing.identity.sessions import TokenPair
    from billing.identity.users import User

BY_CODE: Final = "sign in with a code by mail"
BY_RECOVERY: Final = "ask whoever runs this service"
# How old a sign-in may be that stands in for the password of who has none.
LATELY_S: Final = 600
_query = queries("billing.identity")


class Sessions(Protocol):
    """What signing in needs of `billing.identity.sessions.Sessions`."""

    async def start(
        self,
        connection: Connection,
        user_id: str,
        *,
        org_id: str | None = None,
        scopes: Iterable[str] | None = None,
        address: str | None,
        user_agent: str | None,
    ) -> TokenPair: ...

    async def end_all(
        self,
        connection: Connection,
        user_id: str,
        reason: str,
        *,
        but: str | None = None,
        actor: audit.Actor = ...,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Visitor:
    """Where a request to sign in comes from. `network` is its IPv4 address, or 64 bits of IPv6; `session_id` is the
    session of who is signed in."""

    actor: audit.Actor
    network: str
    user_agent: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Factor:
    """A second factor as it was given: a code of the authenticator app, or a recovery code."""

    totp: str | None = field(default=None, repr=False)
    recovery_code: str | None = field(default=None, repr=False)

    @property
    def given(self) -> bool:
        """Return whether there is one."""
        return self.totp is not None or self.recovery_code is not None


@dataclass(frozen=True, slots=True)
class People:
    """The parts that read and change people. `clock` is in Unix seconds."""

    database: Database
    users: Users
    codes: Codes
    passwords: Passwords
    sessions: Sessions
    effects: ChangeNotifier
    new_id: Callable[[], str]
    clock: Callable[[], float]
    sealer: Sealer = field(default_factory=Sealer)

    async def mail(self, connection: Connection, recipient: str | None, letter: Letter) -> None:
        """Send a letter once the transaction is committed; nobody gets it where a user has no address."""
        if recipient is not None:
            await enqueue(connection, self.new_id, recipient, letter.subject, letter.body)

    async def revoke_keys(self, connection: Connection, user_id: str, actor: audit.Actor) -> list[tuple[str, str]]:
        """Revoke all API keys of a user; return their ids and accounts, for `tell_keys` after the commit."""
        rows = await connection.fetch(_query("users_revoke_keys"), user_id)
        for row in rows:
            after: dict[str, object] = {"prefix": row["prefix"], "revoked_with": user_id}
            await audit.record(
                connection,
                actor,
                "key.revoke",
                row["id"],
                None,
                after,
                account_id=row["account_id"],
                user_id=user_id,
            )
        return [(row["id"], row["account_id"]) for row in rows]

    async def tell_keys(self, revoked: Iterable[tuple[str, str]]) -> None:
        """Have revoked keys refused by every gateway."""
        for key_id, account_id in revoked:
            await self.effects.key_changed(key_id, account_id)

    async def check_password(self, user: User | None, email: str, password: str, network: str) -> Verdict:
        """Compare somebody's password, of nobody's address as well; a try that counts until one was right. In a network
        where they have signed in before, tries of others don't count. Raises `TooManyTries` and `TooManyHashes`."""
        self.passwords.refuse_full(network)
        known = await self.users.known_network(email, network)
        subject = _of_password(email, network if known else "")
        await self.codes.take_try(subject, BY_CODE)
        verdict = await self.passwords.check(None if user is None else user.password_hash, password, network)
        if verdict.right:
            await self.codes.forgive(subject)
        return verdict

    async def signed_in_lately(self, visitor: Visitor) -> bool:
        """Return whether the session of a visitor began a moment ago: at most `LATELY_S`."""
        return await self.database.value(_query("sessions_lately"), visitor.session_id, LATELY_S) is not None

    async def forgive_password(self, email: str, network: str) -> None:
        """Forget the tries at an address's password, which is another one now."""
        for subject in (_of_password(email), _of_password(email, network)):
            await self.codes.forgive(subject)

    async def take_factor_try(self, user: User) -> None:
        """Count a try at a user's second factor, before `check_factor`. Raises `TooManyTries`."""
        await self.codes.take_try(f"second:{user.id}", BY_RECOVERY)

    async def check_factor(self, connection: Connection, user: User, factor: Factor) -> bool:
        """Take a second factor of a user in a transaction. A code of the app is good once, as is a recovery code."""
        right = False
        if factor.totp is not None and user.totp_secret is not None:
            secret, stored = self.totp_secret(user), user.totp_secret
            step = matching_step(secret, factor.totp, self.clock())
            if self.sealer.is_stale(stored):
                stored = self.sealed_totp(user.id, secret)
            taken = (_query("totp_step"), user.id, step, stored)
            right = step is not None and await connection.fetchval(*taken) is not None
        elif factor.recovery_code is not None:
            left = await self.codes.use_recovery_code(connection, user.id, factor.recovery_code)
            right = left is not None
            if left is not None:
                await self.mail(connection, user.email, letters.recovery_code_used(left))
        return right

    def totp_secret(self, user: User) -> str:
        """Return the secret of a user's authenticator app. Raises `SealBroken`."""
        return self.sealer.open(user.totp_secret or "", f"totp {user.id}")

    def sealed_totp(self, user_id: str, secret: str) -> str:
        """Return what is stored of the secret of a user's authenticator app."""
        return self.sealer.seal(secret, f"totp {user_id}")

    async def forgive_factor(self, user: User) -> None:
        """Forget the tries at a user's second factor."""
        await self.codes.forgive(f"second:{user.id}")


def _of_password(email: str, network: str = "") -> str:
    """Return what tries at an address's password are counted under: it may be nobody's, and is not kept."""
    return f"password:{sha256(email.encode()).hexdigest()} {network}".rstrip()
