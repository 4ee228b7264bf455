"""Users: who signs in, and whom other issuers sign in. This file owns the rules of their state, that an address is one
user's alone, and how accounts elsewhere are linked.

A user is pending until the approval policy lets them in: at once (`open`), once their address is proven (`verified`),
or by an operator (`approved`). A pending user signs in and sees themself, no more. A disabled one does not sign in.

A user of another issuer is found by (issuer, subject). A new subject becomes an existing user only where that user is
signed in and asks for it, or has proven the very address that an issuer, whose word for addresses is trusted, says to
have verified. An address that nobody has proven belongs to nobody: it is taken from whoever has registered it, and
never leads to that user. Without this, whoever makes an account with somebody else's address, here or there, gets into
theirs.

UserError
+-- UserNotFound      no user has this id
+-- UserRefused       what was asked can't be done with this user
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack, cast, get_args

from billing import audit
from billing.database.connection import Connection, Database, Row, from_row, queries
from billing.errors import MetergateError
from billing.identity.mail_templates import ACCOUNT_LINKED, FACTOR_REMOVED, MailText
from billing.identity.welcome import Welcome
from billing.mail import enqueue
from billing.pages import BEFORE_ALL, Page, page_of
from billing.permissions import Approval, Role

if TYPE_CHECKING:
    from billing.identity.tokens import Subject

ID_PREFIX: Final = "usr_"
# Of one user that are read at once.
MOST_ORGANIZATIONS: Final = 1000
# The personal organization of who has neither a name nor an address.
NO_NAME: Final = "Personal"
Status = Literal["pending", "active", "disabled"]
# Makes the personal organization of a user's id, with a name, in a transaction.
Found = Callable[[Connection, str, str, audit.Actor], Awaitable[object]]

_query = queries("billing.identity")


class UserError(MetergateError):
    """What was asked of a user can't be done. The message is fit for a reader."""


class UserNotFound(UserError):
    """No user has this id."""

    kind = "not_found"


class UserRefused(UserError):
    """What was asked can't be done with this user as they are."""

    kind = "invalid"


class SubjectTaken(MetergateError):
    """This subject is another user already."""

    kind = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A row of users. `tz` is the time zone that they see times in, None: that of the account. `email` is empty for
    whom another issuer signs in and of whom no address is proven. `totp_last_step` is the last time step whose code was
    taken."""

    id: str
    email: str
    email_verified_at: datetime | None
    name: str
    tz: str | None
    password_hash: str | None = field(repr=False)
    status: Status
    operator: bool
    totp_secret: str | None = field(repr=False)
    totp_confirmed_at: datetime | None
    totp_last_step: int | None
    created_at: datetime
    last_sign_in_at: datetime | None

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"status must be one of {', '.join(get_args(Status))}")

    @property
    def verified(self) -> bool:
        """Return whether the address is proven to be theirs."""
        return self.email_verified_at is not None

    @property
    def second_factor(self) -> bool:
        """Return whether signing in needs a code of an authenticator app, too."""
        return self.totp_confirmed_at is not None


@dataclass(frozen=True, slots=True)
class OwnOrganization:
    """An organization that a user belongs to, and the role there."""

    id: str
    slug: str
    name: str
    personal: bool
    account_id: str
    role: Role


class UserChanges(TypedDict, total=False):
    """What users change of themselves."""

    name: str
    tz: str | None


class Users:
    """Reads and changes users. `approval` says when a new one is let in, `welcome` gives credit to who has proven their
    address. Methods raise `UserError` and `DatabaseError`; those that take a connection work in its transaction."""

    def __init__(
        self,
        database: Database,
        new_id: Callable[[], str],
        approval: Approval = "verified",
        welcome: Welcome | None = None,
    ) -> None:
        self._database, self._new_id, self.approval = database, new_id, approval
        self.welcome = welcome or Welcome()

    async def register(
        self,
        connection: Connection,
        email: str | None,
        name: str = "",
        password_hash: str | None = None,
        *,
        verified: bool,
    ) -> User | None:
        """Create a user; None where the address is somebody's. `email` is as `mail.parse_email` gives it; None for whom
        another issuer signs in, of whom no address is proven."""
        let_in = self.approval == "open" or (self.approval == "verified" and verified)
        given = (ID_PREFIX + self._new_id(), email, name, password_hash, "active" if let_in else "pending", verified)
        row = await connection.fetchrow(_query("users_register"), *given)
        return None if row is None else _user(row)

    async def get(self, user_id: str) -> User:
        """Return a user. Raises `UserNotFound`."""
        row = await self._database.row(_query("users_get"), user_id)
        if row is None:
            raise _not_found(user_id)
        return _user(row)

    async def by_email(self, connection: Connection, email: str) -> User | None:
        """Return the user who has this address."""
        row = await connection.fetchrow(_query("users_by_email"), email)
        return None if row is None else _user(row)

    async def lock(self, connection: Connection, user_id: str) -> User:
        """Return a user, whose row is locked until the transaction ends. Raises `UserNotFound`."""
        row = await connection.fetchrow(_query("users_lock"), user_id)
        if row is None:
            raise _not_found(user_id)
        return _user(row)

    async def page(
        self, limit: int, after: str | None = None, *, status: Status | None = None, email: str | None = None
    ) -> Page[User]:
        """Return users, newest first; `after` is the id that ended the page before."""
        rows = await self._database.rows(_query("users_page"), after or BEFORE_ALL, limit + 1, status, email)
        return page_of([_user(row) for row in rows], limit, lambda user: user.id)

    async def organizations(self, user_id: str) -> list[OwnOrganization]:
        """Return the organizations of a user, the first one first."""
        rows = await self._database.rows(_query("users_organizations"), user_id, MOST_ORGANIZATIONS)
        return [OwnOrganization(**dict(row)) for row in rows]

    async def known_network(self, email: str, network: str) -> bool:
        """Return whether who owns an address has signed in from a network of late: others' guesses don't count
        there."""
        return bool(await self._database.value(_query("users_known_network"), email, network))

    async def mail(self, connection: Connection, user_id: str, text: MailText) -> None:
        """Send a user a mail once the transaction is committed, to the address that they have proven."""
        user = await self.lock(connection, user_id)
        if user.verified:
            await enqueue(connection, self._new_id, user.email, text.subject, text.body)

    async def zone(self, user_id: str) -> str | None:
        """Return the time zone that a user has chosen for themself."""
        zone: str | None = await self._database.value(_query("users_zone"), user_id)
        return zone

    async def update(self, user_id: str, actor: audit.Actor, **changes: Unpack[UserChanges]) -> User:
        """Change a user's `name` or `tz`."""
        return await self._change(user_id, actor, "user.update", **changes)

    async def approve(self, user_id: str, actor: audit.Actor) -> User:
        """Let a pending user in, whatever the policy waits for. A disabled one stays so: raises `UserRefused`."""
        return await self._change(user_id, actor, "user.approve", status="active", refused="disabled")

    async def disable(self, user_id: str, actor: audit.Actor) -> User:
        """Let a user in no more: every session ends with it. API keys stay as they are."""
        return await self._change(user_id, actor, "user.disable", status="disabled", operator=False)

    async def enable(self, user_id: str, actor: audit.Actor) -> User:
        """Let a disabled user in again."""
        return await self._change(user_id, actor, "user.enable", status="active", refused="pending")

    async def set_operator(self, user_id: str, operator: bool, actor: audit.Actor) -> User:
        """Give or take the right to do what the admin key may. Raises `UserRefused` for one without a second factor,
        which operators need, or who was not let in."""
        return await self._change(user_id, actor, "user.operator", operator=operator)

    async def remove_factor(self, user_id: str, actor: audit.Actor) -> None:
        """Remove the authenticator app of somebody who has lost it, and the recovery codes; they are told by mail.
        Raises `UserRefused` for an operator, who needs one."""
        async with self._database.transaction() as connection:
            before = await self.lock(connection, user_id)
            if before.operator:
                raise UserRefused("An operator needs a second factor: take the operator's right first.")
            if before.second_factor:
                await connection.execute(_query("totp_disable"), user_id)
                await connection.execute(_query("recovery_replace"), user_id, [])
                had, has = {"second_factor": True}, {"second_factor": False}
                await audit.record(connection, actor, "user.totp", user_id, had, has, user_id=user_id)
                await self.mail(connection, user_id, FACTOR_REMOVED.filled())

    async def prove(
        self, connection: Connection, user_id: str, password_hash: str | None, name: str | None = None
    ) -> User:
        """Note that the address is theirs, which lets them in where the policy waits for no more. Password and name
        become those of who has proven it: until then anybody may have registered the address."""
        let_in = self.approval != "approved"
        row = await connection.fetchrow(_query("users_verified"), user_id, password_hash, let_in, name)
        await self.welcome.give(connection, user_id)
        return _user(cast("Row", row))

    async def set_password(self, connection: Connection, user_id: str, password_hash: str) -> None:
        """Replace a user's password."""
        await connection.execute(_query("users_password"), user_id, password_hash)

    async def take_unproven(self, connection: Connection, email: str, proven_by: str) -> None:
        """Take an address from who has registered it without proving it, for somebody else, whom `proven_by` names,
        has proven it."""
        for row in await connection.fetch(_query("users_unproven"), email):
            after = {"email": None, "proven_by": proven_by}
            subject = "user.email", row["id"]
            await audit.record(connection, audit.SYSTEM, *subject, {"email": email}, after, user_id=row["id"])

    async def set_email(self, connection: Connection, user_id: str, email: str) -> None:
        """Replace a user's address by one that is proven, which lets them in as `prove` does. Raises `UniqueViolation`
        where it is somebody's."""
        await connection.execute(_query("users_email"), user_id, email, self.approval != "approved")

    async def _change(
        self, user_id: str, actor: audit.Actor, action: str, *, refused: Status | None = None, **changes: Any
    ) -> User:
        async with self._database.transaction() as connection:
            before = await self.lock(connection, user_id)
            if before.status == refused:
                raise UserRefused(f"This user is {refused}: {_MENDS[refused]}")
            wanted = replace(before, **changes)
            if wanted.operator and not before.operator and not (before.second_factor and before.status == "active"):
                raise UserRefused(NEEDS_FACTOR)
            if wanted == before:
                return before
            given = (user_id, wanted.name, wanted.status, wanted.operator, wanted.tz)
            after = _user(cast("Row", await connection.fetchrow(_query("users_update"), *given)))
            if after.status == "disabled":
                await connection.execute(_query("users_end_sessions"), user_id, "disabled")
            await audit.record(connection, actor, action, user_id, _audited(before), _audited(after), user_id=user_id)
        return after


NEEDS_FACTOR: Final = (
    "An operator needs a second factor: the user has to sign in and to set up an authenticator app, on the console's "
    "page of security or by `metergate auth totp enrol`, and must be active."
)
_MENDS: Final = {"disabled": "enable them first.", "pending": "approve them."}


def _user(row: Row) -> User:
    return from_row(User, row, email=row["email"] or "")


def _not_found(user_id: str) -> UserNotFound:
    return UserNotFound(f"There is no user {user_id!r}.")


def _audited(user: User) -> dict[str, object]:
    return {"name": user.name, "tz": user.tz, "status": user.status, "operator": user.operator}


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
        await self._users.mail(connection, user_id, ACCOUNT_LINKED.filled(issuer=subject.issuer))
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
        await self._users.welcome.give(connection, user.id)
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
