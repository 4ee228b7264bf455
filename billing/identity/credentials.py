"""Credentials: passwords and second factors, as they are checked, and as they are changed by who has signed in or owns
the address.

This file owns that each try at a password or a second factor is counted before it is checked, and that a code of an
authenticator app or a recovery code is good once; that the address that a change takes power from is mailed, and that a
new password ends sessions.
Who is signed in shows their password again, or has just signed in where they have none: a token that was left open
somewhere is not enough.

CredentialsError
+-- WrongCredential     the password, code or second factor is not right
+-- CredentialRefused   it can't be done as things stand
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from secrets import token_bytes
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.change_notifier import ChangeNotifier
from billing.database.connection import Connection, Database, UniqueViolation, queries
from billing.errors import MetergateError
from billing.identity import mail_templates
from billing.identity.codes import TOTP_SECRET_BYTES, Codes, totp_secret, totp_step, totp_uri
from billing.identity.encryption import Sealer
from billing.identity.passwords import LEAST_ALONE, LEAST_BESIDE, Passwords, Verdict, check_password
from billing.identity.users import User, Users
from billing.mail import SERVICE, enqueue, parse_email

if TYPE_CHECKING:
    from billing.identity.mail_templates import MailText
    from billing.identity.sessions import Sessions

BY_CODE: Final = "sign in with a code by mail"
BY_RECOVERY: Final = "ask whoever runs this service"
# How old a sign-in may be that stands in for the password of who has none.
LATELY_S: Final = 600
_query = queries("billing.identity")


class Refusal(Enum):
    """Why somebody is not let in: the credentials are wrong, whatever of them; or they are right, and a code of the
    authenticator app is missing, or wrong; or the user is disabled."""

    wrong = "wrong"
    second_factor = "second factor missing"
    wrong_factor = "second factor wrong"
    disabled = "disabled"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Where a request to sign in comes from. `network` is its IPv4 address, or 64 bits of IPv6; `session_id` is the
    session of who is signed in."""

    actor: audit.Actor
    network: str
    user_agent: str | None = None
    session_id: str | None = None

    def acting(self, user_id: str) -> audit.Actor:
        """Return what the audit log says of the visitor as this user."""
        return replace(self.actor, name=f"user:{user_id}")


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

    async def mail(self, connection: Connection, recipient: str | None, text: MailText) -> None:
        """Send a mail once the transaction is committed; nobody gets it where a user has no address."""
        if recipient is not None:
            await enqueue(connection, self.new_id, recipient, text.subject, text.body)

    async def revoke_keys(self, connection: Connection, user_id: str, actor: audit.Actor) -> list[tuple[str, str]]:
        """Revoke all API keys of a user; return their ids and accounts, for `tell_keys` after the commit."""
        rows = await connection.fetch(_query("users_revoke_keys"), user_id)
        for row in rows:
            after, account_id = {"prefix": row["prefix"], "revoked_with": user_id}, row["account_id"]
            await audit.record(
                connection, actor, "key.revoke", row["id"], None, after, account_id=account_id, user_id=user_id
            )
        return [(row["id"], row["account_id"]) for row in rows]

    async def tell_keys(self, revoked: Iterable[tuple[str, str]]) -> None:
        """Have revoked keys refused by every gateway."""
        for key_id, account_id in revoked:
            await self.effects.key_changed(key_id, account_id)

    async def check_password(self, user: User | None, email: str, password: str, network: str) -> Verdict:
        """Compare somebody's password, of nobody's address as well; a try that counts until one was right. In a network
        where they have signed in before, tries of others don't count. Raises `TooManyTries` and `TooManySignIns`."""
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
            step = totp_step(secret, factor.totp, self.clock())
            if self.sealer.is_stale(stored):
                stored = self.sealed_totp(user.id, secret)
            taken = (_query("totp_step"), user.id, step, stored)
            right = step is not None and await connection.fetchval(*taken) is not None
        elif factor.recovery_code is not None:
            left = await self.codes.use_recovery_code(connection, user.id, factor.recovery_code)
            right = left is not None
            if left is not None:
                await self.mail(connection, user.email, mail_templates.RECOVERY_CODE_USED.filled(left=left))
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


class CredentialsError(MetergateError):
    """What was asked of somebody's credentials can't be done. The message is fit for a reader."""


class WrongCredential(CredentialsError):
    """The password, code or second factor is not right."""

    kind = "unauthorized"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class CredentialRefused(CredentialsError):
    """It can't be done as things stand."""

    kind = "conflict"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A secret for an authenticator app, which counts once a code of it was shown."""

    secret: str = field(repr=False)
    uri: str = field(repr=False)


class Credentials:
    """Changes credentials. Methods raise `CredentialsError`, `TooManyTries`, `TooManySignIns`, `DatabaseError`."""

    def __init__(self, people: People) -> None:
        self._people = people

    async def forgot(self, email: str, visitor: Visitor) -> None:
        """Mail the owner of an address a code to set a new password; the same work is done for an unknown address.
        Raises `BadAddress` and `TooManyMails`."""
        people, email = self._people, parse_email(email)
        known = await people.users.known_network(email, visitor.network)
        async with people.database.transaction() as connection:
            user = await people.users.by_email(connection, email)
            user_id = None if user is None else user.id
            code = await people.codes.issue(
                connection, "reset", email, user_id=user_id, network=visitor.network, known=known
            )
            known = user is not None and user.status != "disabled"
            template = mail_templates.RESET_PASSWORD if known else mail_templates.NOBODY_REGISTERED
            await people.mail(connection, email, template.filled(token=code.token))

    async def reset(self, token: str, password: str, *, revoke_keys: bool, visitor: Visitor) -> int:
        """Set a new password by what was mailed, and end every session; with `revoke_keys` all of the user's API keys,
        too. Proves the address as well. Returns how many keys were revoked. Raises `PasswordRefused`."""
        people = self._people
        check_password(password, LEAST_BESIDE)
        shown = await people.codes.show_token("reset", token)
        if shown is None or shown.user_id is None:
            raise _wrong_token()
        user = await people.users.get(shown.user_id)
        check_password(password, _least(user), (user.email or "", user.name))
        hashed = await people.passwords.hash(password, visitor.network)
        actor = visitor.acting(user.id)
        async with people.database.transaction() as connection:
            now = await people.users.lock(connection, user.id)
            if now.email != shown.email or now.status == "disabled" or not await people.codes.use(connection, shown):
                raise _wrong_token()
            if now.verified:
                await people.users.set_password(connection, now.id, hashed)
            else:
                await people.users.prove(connection, now.id, hashed)
            # Who took an address that is not theirs keeps nothing of it.
            keys = await self._changed(connection, now, None, revoke_keys or not now.verified, actor, "reset")
        await people.forgive_password(shown.email, visitor.network)
        await people.tell_keys(keys)
        return len(keys)

    async def change_password(
        self, user_id: str, current: str | None, password: str, *, revoke_keys: bool, visitor: Visitor
    ) -> int:
        """Replace the password of who is signed in, and end their other sessions. Returns how many keys were revoked.
        Raises `PasswordRefused`."""
        people, user = self._people, await self._people.users.get(user_id)
        check_password(password, _least(user), (user.email or "", user.name))
        await self._confirm(user, current, "current_password", visitor)
        hashed = await people.passwords.hash(password, visitor.network)
        async with people.database.transaction() as connection:
            now = await self._locked(connection, user)
            await people.users.set_password(connection, now.id, hashed)
            but, actor = visitor.session_id, visitor.acting(now.id)
            keys = await self._changed(connection, now, but, revoke_keys, actor, "changed")
        await people.tell_keys(keys)
        return len(keys)

    async def _changed(
        self, connection: Connection, user: User, but: str | None, revoke_keys: bool, actor: audit.Actor, how: str
    ) -> list[tuple[str, str]]:
        """End what a new password ends, tell the user, and note it. Returns the keys that were revoked."""
        people = self._people
        await people.sessions.end_all(connection, user.id, f"the password was {how}", but=but, actor=actor)
        await people.codes.end_all(connection, user.id, user.email)
        keys = await people.revoke_keys(connection, user.id, actor) if revoke_keys else []
        revoked = f" {len(keys)} API keys of yours were revoked." if keys else ""
        await people.mail(connection, user.email, mail_templates.PASSWORD_CHANGED.filled(keys=revoked))
        after = {"how": how, "keys_revoked": len(keys)}
        await audit.record(connection, actor, "user.password", user.id, None, after, user_id=user.id)
        return keys

    async def change_email(self, user_id: str, email: str, password: str | None, visitor: Visitor) -> str:
        """Send a code to a new address, which becomes the user's once it was shown; return its challenge. The answer is
        the same for an address that somebody has. Raises `BadAddress` and `TooManyMails`."""
        people, email = self._people, parse_email(email)
        user = await people.users.get(user_id)
        await self._confirm(user, password, "password", visitor)
        async with people.database.transaction() as connection:
            taken = await people.users.by_email(connection, email)
            code = await people.codes.issue(connection, "email", email, user_id=user_id, network=visitor.network)
            free = taken is None or not taken.verified
            template = mail_templates.NEW_ADDRESS if free else mail_templates.ALREADY_REGISTERED
            await people.mail(connection, email, template.filled(code=code.secret))
        return code.id

    async def confirm_email(self, user_id: str, email: str, code: str, challenge: str | None, visitor: Visitor) -> None:
        """Make an address the user's, by the code mailed there, though somebody else has registered it unproven."""
        people, email = self._people, parse_email(email)
        wrong = WrongCredential("code", "This code is wrong, used or expired: ask for another one.")
        shown = await people.codes.show("email", email, code, challenge)
        if shown is None or shown.user_id != user_id:
            raise wrong
        try:
            async with people.database.transaction() as connection:
                user = await people.users.lock(connection, user_id)
                if not await people.codes.use(connection, shown):
                    raise wrong
                await people.codes.end_all(connection, user_id, user.email)
                await people.users.take_unproven(connection, email, user_id)
                await people.users.set_email(connection, user_id, email)
                changed = mail_templates.ADDRESS_CHANGED.filled(address=mail_templates.shown_in_part(email))
                await people.mail(connection, user.email, changed)
                before, after, actor = {"email": user.email}, {"email": email}, visitor.acting(user_id)
                await audit.record(connection, actor, "user.email", user_id, before, after, user_id=user_id)
        except UniqueViolation as error:
            raise wrong from error

    async def owner(self, user_id: str, password: str | None, visitor: Visitor) -> User:
        """Return who is signed in and may add something to sign in by. Raises `CredentialRefused` before the address is
        proven: who has only registered it leaves nothing of the kind to its owner."""
        user = await self._people.users.get(user_id)
        if user.email and not user.verified:
            raise CredentialRefused(
                "Prove your address first: sign in with a mailed code, in the console or by `metergate auth login "
                "--mail-code`."
            )
        await self._confirm(user, password, "password", visitor)
        return user

    async def enrol(self, user_id: str, password: str | None, visitor: Visitor) -> Enrolment:
        """Make a secret for an authenticator app; `confirm` makes it count. Raises as `owner`."""
        people, user = self._people, await self.owner(user_id, password, visitor)
        secret = totp_secret(token_bytes(TOTP_SECRET_BYTES))
        stored = people.sealed_totp(user_id, secret)
        if await people.database.value(_query("totp_enrol"), user_id, stored) is None:
            raise CredentialRefused("There is an authenticator app already: `metergate auth totp off` removes it.")
        return Enrolment(secret, totp_uri(secret, SERVICE, user.email or user.id))

    async def confirm(self, user_id: str, code: str, visitor: Visitor) -> list[str]:
        """Have signing in need codes of the app from now on, whose first one is shown; return the recovery codes."""
        people = self._people
        user = await people.users.get(user_id)
        if user.totp_secret is None or user.second_factor:
            raise CredentialRefused("There is nothing to confirm: begin with `metergate auth totp enrol`.")
        await people.take_factor_try(user)
        step = totp_step(people.totp_secret(user), code, people.clock())
        if step is None:
            raise _wrong_code()
        async with people.database.transaction() as connection:
            if await connection.fetchval(_query("totp_confirm"), user_id, user.totp_secret, step) is None:
                raise _wrong_code()
            codes = await people.codes.new_recovery_codes(connection, user_id)
            await self._noted_factor(connection, user, on=True, visitor=visitor)
        await people.forgive_factor(user)
        return codes

    async def disable(self, user_id: str, password: str | None, factor: Factor, visitor: Visitor) -> None:
        """Have signing in need no code of an app any more. Raises `PasswordRefused` for a password that is too short to
        stand alone, and `CredentialRefused` for an operator's, which never does."""
        people = self._people
        user = await people.users.get(user_id)
        if not user.second_factor:
            raise CredentialRefused("There is no authenticator app to remove.")
        if user.operator:
            raise CredentialRefused("An operator needs a second factor: give the operator's right back first.")
        await self._confirm(user, password, "password", visitor)
        if password is not None:
            check_password(password, LEAST_ALONE)
        await people.take_factor_try(user)
        async with people.database.transaction() as connection:
            now = await self._locked(connection, user)
            right = not now.operator and await people.check_factor(connection, now, factor)
            if right:
                await connection.execute(_query("totp_disable"), user_id)
                await connection.execute(_query("recovery_replace"), user_id, [])
                await self._noted_factor(connection, now, on=False, visitor=visitor)
        if not right:
            raise _wrong_code()
        await people.forgive_factor(user)

    async def renew_recovery_codes(self, user_id: str, factor: Factor, visitor: Visitor) -> list[str]:
        """Replace the recovery codes, by a code of the app or one of them; return the new ones."""
        people, user = self._people, await self._people.users.get(user_id)
        if not user.second_factor:
            raise CredentialRefused("There is no authenticator app: begin with `metergate auth totp enrol`.")
        await people.take_factor_try(user)
        codes = None
        async with people.database.transaction() as connection:
            now = await self._locked(connection, user)
            if await people.check_factor(connection, now, factor):
                codes = await people.codes.new_recovery_codes(connection, user_id)
                actor = visitor.acting(user.id)
                await audit.record(connection, actor, "user.recovery_codes", user_id, None, None, user_id=user_id)
        if codes is None:
            raise _wrong_code()
        await people.forgive_factor(user)
        return codes

    async def revoke_keys(self, user_id: str, actor: audit.Actor) -> None:
        """Revoke all API keys of a user."""
        async with self._people.database.transaction() as connection:
            revoked = await self._people.revoke_keys(connection, user_id, actor)
        await self._people.tell_keys(revoked)

    async def recovery_codes_left(self, user_id: str) -> int:
        """Return how many recovery codes a user has."""
        return await self._people.codes.recovery_codes_left(user_id)

    async def _noted_factor(self, connection: Connection, user: User, *, on: bool, visitor: Visitor) -> None:
        template = mail_templates.FACTOR_ADDED if on else mail_templates.FACTOR_REMOVED
        await self._people.mail(connection, user.email, template.filled())
        before, after, actor = {"second_factor": not on}, {"second_factor": on}, visitor.acting(user.id)
        await audit.record(connection, actor, "user.totp", user.id, before, after, user_id=user.id)

    async def _confirm(self, user: User, password: str | None, field: str, visitor: Visitor) -> None:
        """Have who is signed in show their password; who has none, that it was just now. Raises `WrongCredential`."""
        if user.password_hash is None:
            if await self._people.signed_in_lately(visitor):
                return
            raise WrongCredential(field, "You have no password to show: sign in again, and do this within ten minutes.")
        if password is None:
            raise WrongCredential(field, f"Give your password again, as {field}.")
        verdict = await self._people.check_password(user, user.email or user.id, password, visitor.network)
        if not verdict.right:
            raise WrongCredential(field, "This is not your password.")

    async def _locked(self, connection: Connection, user: User) -> User:
        """Return a user as they are now, whose password is the one that was shown."""
        now = await self._people.users.lock(connection, user.id)
        if (now.password_hash, now.second_factor, now.email) != (user.password_hash, user.second_factor, user.email):
            raise CredentialRefused("Your credentials have just been changed elsewhere: try again.")
        return now


def _wrong_token() -> WrongCredential:
    return WrongCredential("token", "This token is wrong, used or expired: ask for another one.")


def _wrong_code() -> WrongCredential:
    return WrongCredential("code", "This code is wrong, or was used before: wait for the next one.")


def _least(user: User) -> int:
    return LEAST_BESIDE if user.second_factor else LEAST_ALONE
