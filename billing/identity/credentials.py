"""Credentials: how who has signed in, or owns the address, changes the password, the address and the second factor.

This file owns that each change is told to the address that it takes power from, and that a new password ends sessions.
Who is signed in shows their password again, or has just signed in where they have none: a token that was left open
somewhere is not enough.

CredentialsError
+-- WrongCredential     the password, code or second factor is not right
+-- CredentialRefused   it can't be done as things stand
"""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_bytes
from typing import TYPE_CHECKING

from billing import audit
from billing.database.connection import UniqueViolation, queries
from billing.errors import MetergateError
from billing.identity import letters, totp
from billing.identity.passwords import LEAST_ALONE, LEAST_BESIDE, check_password
from billing.mail import SERVICE, parse_email

if TYPE_CHECKING:
    from billing.database.connection import Connection
    from billing.identity.people import Factor, People, Visitor
    from billing.identity.users import User

_query = queries("billing.identity")


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
    """Changes credentials. Methods raise `CredentialsError`, `TooManyTries`, `TooManyHashes`, `DatabaseError`."""

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
            letter = letters.reset_token(code.token) if known else letters.nobody_registered()
            await people.mail(connection, email, letter)

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
        actor = _actor(user, visitor)
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
            but, actor = visitor.session_id, _actor(now, visitor)
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
        await people.mail(connection, user.email, letters.password_changed(keys_revoked=len(keys)))
        after: dict[str, object] = {"how": how, "keys_revoked": len(keys)}
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
            letter = letters.new_address_code(code.secret) if free else letters.already_registered()
            await people.mail(connection, email, letter)
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
                await people.mail(connection, user.email, letters.address_changed(email))
                change: tuple[dict[str, object], dict[str, object]] = ({"email": user.email}, {"email": email})
                await audit.record(connection, _actor(user, visitor), "user.email", user_id, *change, user_id=user_id)
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
        secret = totp.secret_text(token_bytes(totp.SECRET_BYTES))
        stored = people.sealed_totp(user_id, secret)
        if await people.database.value(_query("totp_enrol"), user_id, stored) is None:
            raise CredentialRefused("There is an authenticator app already: `metergate auth totp off` removes it.")
        return Enrolment(secret, totp.uri(secret, SERVICE, user.email or user.id))

    async def confirm(self, user_id: str, code: str, visitor: Visitor) -> list[str]:
        """Have signing in need codes of the app from now on, whose first one is shown; return the recovery codes."""
        people = self._people
        user = await people.users.get(user_id)
        if user.totp_secret is None or user.second_factor:
            raise CredentialRefused("There is nothing to confirm: begin with `metergate auth totp enrol`.")
        await people.take_factor_try(user)
        step = totp.matching_step(people.totp_secret(user), code, people.clock())
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
                actor = _actor(user, visitor)
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
        await self._people.mail(connection, user.email, letters.second_factor_changed(on=on))
        change: tuple[dict[str, object], dict[str, object]] = ({"second_factor": not on}, {"second_factor": on})
        await audit.record(connection, _actor(user, visitor), "user.totp", user.id, *change, user_id=user.id)

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


def _actor(user: User, visitor: Visitor) -> audit.Actor:
    return audit.Actor(f"user:{user.id}", visitor.actor.address, visitor.actor.request_id)
