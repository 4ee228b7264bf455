"""Subjects: whom other issuers sign in, and which user that is.

This file owns the rule by which accounts are linked: a user is found by (issuer, subject). A new subject becomes an
existing user only where that user is signed in and asks for it, or has proven the very address that an issuer, whose
word for addresses is trusted, says to have verified. An address that nobody has proven belongs to nobody: it is taken
from whoever has registered it, and never leads to that user. Without this, whoever makes an account with somebody
else's address, here or there, gets into theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.database.connection import Connection, Database, queries
from billing.errors import MetergateError
from billing.identity.letters import account_linked

if TYPE_CHECKING:
    from billing.identity.tokens import Subject
    from billing.identity.users import User, Users

_query = queries("billing.identity")
NO_NAME: Final = "Personal"
# Makes the personal organization of a user's id, with a name, in a transaction.
Found = Callable[["Connection", str, str, audit.Actor], Awaitable[object]]


class SubjectTaken(MetergateError):
    """This subject is another user already."""

    kind = "conflict"


class Subjects:
    """Finds and makes the users of subjects; `found` makes the personal organization of a user's id, with a name, in a
    transaction. Methods raise `DatabaseError`."""

    def __init__(self, database: Database, users: Users, found: Found) -> None:
        self._database, self._users, self._found = database, users, found

    async def see(self, subject: Subject) -> str:
        """Return the id of a subject's user, who is made on first sight and linked to nobody."""
        async with self._database.transaction() as connection:
            return await self._known(connection, subject) or await self._make(connection, subject)

    async def sign_in(self, connection: Connection, subject: Subject, signed_in: str | None) -> str:
        """Return the id of a subject's user, who may be the one that is signed in, or one with the same proven address;
        else one is made. Works in the caller's transaction. Raises `SubjectTaken` where somebody is signed in and the
        subject is another user."""
        known = await self._known(connection, subject)
        if known is not None:
            if signed_in is not None and known != signed_in:
                raise SubjectTaken("This account of yours there is linked to another user here.")
            return known
        user_id = signed_in or await self._proven(connection, subject)
        if user_id is None:
            return await self._make(connection, subject)
        await self._link(connection, subject, user_id)
        await self._users.mail(connection, user_id, account_linked(subject.issuer))
        return user_id

    async def _known(self, connection: Connection, subject: Subject) -> str | None:
        """Return the user of a subject; nobody else makes or links it until the transaction ends."""
        await connection.execute(_query("subjects_lock"), subject.issuer, subject.subject)
        user_id: str | None = await connection.fetchval(_query("subjects_user"), subject.issuer, subject.subject)
        return user_id

    async def _proven(self, connection: Connection, subject: Subject) -> str | None:
        """Return who has proven the address that a trusted issuer has verified."""
        if not subject.verified or subject.email is None:
            return None
        user = await self._users.by_email(connection, subject.email)
        return user.id if user is not None and user.verified else None

    async def _make(self, connection: Connection, subject: Subject) -> str:
        user = await self._register(connection, subject)
        actor = audit.Actor(f"user:{user.id}")
        after = {"issuer": subject.issuer, "email": user.email or None, "status": user.status}
        await audit.record(connection, actor, "user.register", user.id, None, after, user_id=user.id)
        await self._link(connection, subject, user.id)
        name = subject.name or (subject.email or NO_NAME).partition("@")[0]
        await self._found(connection, user.id, name, actor)
        return user.id

    async def _register(self, connection: Connection, subject: Subject) -> User:
        """Make a user, with the address where it is proven and nobody else has proven it."""
        email = subject.email if subject.verified else None
        let_in = subject.let_in or subject.verified
        if email is not None:
            await self._users.take_unproven(connection, email, subject.issuer)
        user = await self._users.register(connection, email, subject.name, verified=let_in)
        if user is None:
            user = await self._users.register(connection, None, subject.name, verified=let_in)
        if user is None:
            raise TypeError("a user without an address can't be taken")
        return user

    async def _link(self, connection: Connection, subject: Subject, user_id: str) -> None:
        given = subject.issuer, subject.subject, user_id, subject.email
        await connection.execute(_query("subjects_link"), *given)
        after = {"issuer": subject.issuer, "subject": subject.subject}
        actor = audit.Actor(f"user:{user_id}")
        await audit.record(connection, actor, "user.identity_link", user_id, None, after, user_id=user_id)
