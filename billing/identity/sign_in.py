"""Signing in: from an address, and a password or a mailed code, to a session.

This file owns that no answer tells who is registered, by what it says or by the work that it takes: an address of
nobody gets a row and a mail as well, and nobody's password is compared, too. It owns also that an address which nobody
has proven is nobody's: who proves it first takes the password that they chose when the code was mailed, and whatever
somebody else has begun with that address ends. Sign-ins and failures are audited.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from billing import audit
from billing.database.connection import Connection, queries
from billing.identity import mail_templates
from billing.identity.codes import Purpose, Shown
from billing.identity.credentials import Factor, People, Refusal, Visitor
from billing.identity.passwords import LEAST_ALONE, check_password
from billing.identity.sessions import Origin, TokenPair
from billing.mail import parse_email

if TYPE_CHECKING:
    from billing.identity.directories import Directories
    from billing.identity.users import Found, User

_query = queries("billing.identity")


@dataclass(frozen=True, slots=True)
class _Proof:
    """What somebody has shown, and whether it was right: a mailed code, or else a password."""

    method: str
    right: bool
    factor: Factor
    shown: Shown | None = None
    rehashed: str | None = field(default=None, repr=False)


class SignIn:
    """Registers people and signs them in; `directories` are told who has. Methods raise `MetergateError`s whose
    messages are for the reader."""

    def __init__(self, people: People, found: Found, directories: Directories) -> None:
        self._people, self._found, self._directories = people, found, directories

    async def register(self, email: str, name: str, password: str | None, visitor: Visitor) -> str:
        """Add an address, and mail it a code to verify it; return the challenge that the code is bound to. Where it is
        registered, its owner is told, and the answer and the work are the same. Raises `BadAddress`, `PasswordRefused`,
        `TooManySignIns` and `TooManyMails`."""
        people, email = self._people, parse_email(email)
        if password is not None:
            check_password(password, LEAST_ALONE, (email, name))
        known = await people.users.known_network(email, visitor.network)
        await people.codes.refuse_too_many(email, visitor.network, known=known)  # a hash costs more than to ask
        hashed = None if password is None else await people.passwords.hash(password, visitor.network)
        context = {"password_hash": hashed, "name": name}
        async with people.database.transaction() as connection:
            code = await people.codes.issue(
                connection, "verify", email, context=context, network=visitor.network, known=known
            )
            user = await people.users.by_email(connection, email)
            await self._make(connection, email if user is None else None, name, hashed, visitor)
            taken = user is not None and user.verified
            template = mail_templates.ALREADY_REGISTERED if taken else mail_templates.VERIFY_ADDRESS
            await people.mail(connection, email, template.filled(code=code.secret))
        return code.id

    async def _make(
        self, connection: Connection, email: str | None, name: str, hashed: str | None, visitor: Visitor
    ) -> None:
        """Make a user with their organization; without an address somebody who is forgotten at once: the same work."""
        people = self._people
        savepoint = connection.transaction()
        await savepoint.start()
        own = email or f"{people.new_id().lower()}@nobody.invalid"
        user = await people.users.register(connection, own, name, hashed, verified=False)
        if user is not None:
            actor = visitor.acting(user.id)
            await self._found(connection, user.id, name or own.partition("@")[0], actor)
            after = {"status": user.status}
            await audit.record(connection, actor, "user.register", user.id, None, after, user_id=user.id)
        await (savepoint.rollback() if email is None else savepoint.commit())

    async def send_code(self, email: str, purpose: Purpose, visitor: Visitor, challenge: str | None = None) -> str:
        """Send a code to verify an address, or to sign in, by mail; return its challenge. One to verify goes on with
        the registration of `challenge`, else with the last. The answer and the work are the same for an address that
        nobody has. Raises `BadAddress` and `TooManyMails`."""
        people, email = self._people, parse_email(email)
        known = await people.users.known_network(email, visitor.network)
        async with people.database.transaction() as connection:
            user = await people.users.by_email(connection, email)
            context = await people.codes.context_of(connection, purpose, email, challenge)
            if purpose != "verify" or user is None or user.verified:
                context = {}
            code = await people.codes.issue(
                connection, purpose, email, context=context, network=visitor.network, known=known
            )
            if user is None or user.status == "disabled":
                template = mail_templates.NOBODY_REGISTERED
            elif purpose == "verify":
                template = mail_templates.ALREADY_REGISTERED if user.verified else mail_templates.VERIFY_ADDRESS
            else:
                template = mail_templates.SIGN_IN_CODE
            await people.mail(connection, email, template.filled(code=code.secret))
        return code.id

    async def verify(
        self, email: str, code: str, challenge: str | None, factor: Factor, visitor: Visitor
    ) -> TokenPair | Refusal:
        """Take a code that proves an address, and sign its owner in."""
        return await self._by_code("verify", email, code, challenge, factor, visitor)

    async def by_code(
        self, email: str, code: str, challenge: str | None, factor: Factor, visitor: Visitor
    ) -> TokenPair | Refusal:
        """Let in by a mailed code, which proves the address as well. Raises `TooManyTries`."""
        return await self._by_code("login", email, code, challenge, factor, visitor)

    async def _by_code(
        self, purpose: Purpose, email: str, code: str, challenge: str | None, factor: Factor, visitor: Visitor
    ) -> TokenPair | Refusal:
        people, email = self._people, parse_email(email)
        shown = await people.codes.show(purpose, email, code, challenge)
        async with people.database.connection() as connection:
            user = await people.users.by_email(connection, email)
        return await self._enter(user, _Proof("code", shown is not None, factor, shown=shown), visitor)

    async def by_password(self, email: str, password: str, factor: Factor, visitor: Visitor) -> TokenPair | Refusal:
        """Let in by a password. Nobody's is compared, too. Raises `TooManyTries` and `TooManySignIns`."""
        people, email = self._people, parse_email(email)
        async with people.database.connection() as connection:
            user = await people.users.by_email(connection, email)
        verdict = await people.check_password(user, email, password, visitor.network)
        return await self._enter(user, _Proof("password", verdict.right, factor, rehashed=verdict.rehashed), visitor)

    async def _enter(self, user: User | None, proof: _Proof, visitor: Visitor) -> TokenPair | Refusal:
        """Start a session for a person who has shown a right proof, unless what it proves has changed meanwhile."""
        people, revoked = self._people, list[tuple[str, str]]()
        if user is not None and proof.right and user.second_factor and proof.factor.given:
            await people.take_factor_try(user)
        async with people.database.transaction() as connection:
            # A wrong proof locks nobody's row: it is as much work for nobody's address, and keeps no owner waiting.
            now = await people.users.lock(connection, user.id) if user is not None and proof.right else None
            refusal = await self._judge(connection, user, now, proof)
            if refusal is not None or now is None:
                await self._note_failure(connection, refusal or Refusal.wrong, user, proof, visitor)
                return refusal or Refusal.wrong
            actor = visitor.acting(now.id)
            if proof.shown is not None and not now.verified:
                revoked = await self._prove(connection, now, proof.shown.context, actor)
            await connection.execute(_query("users_signed_in"), now.id, now.password_hash, proof.rehashed)
            origin = Origin(visitor.network, visitor.user_agent)
            pair = await people.sessions.start(connection, now.id, origin)
            after = {"method": proof.method, "second_factor": now.second_factor}
            await audit.record(connection, actor, "user.sign_in", now.id, None, after, user_id=now.id)
        if now.second_factor:
            await people.forgive_factor(now)
        await people.tell_keys(revoked)
        await self._directories.signed_in(now.id, actor)
        return pair

    async def _judge(
        self, connection: Connection, user: User | None, now: User | None, proof: _Proof
    ) -> Refusal | None:
        """Return why somebody is not let in; `user` is as they were when the proof was looked at."""
        if user is None or now is None or not proof.right:
            return Refusal.wrong
        if now.email != user.email or (proof.shown is None and now.password_hash != user.password_hash):
            return Refusal.wrong
        if now.status == "disabled":
            return Refusal.disabled
        if now.second_factor and not (proof.factor.given and user.second_factor):
            return Refusal.second_factor
        if now.second_factor and not await self._people.check_factor(connection, now, proof.factor):
            return Refusal.wrong_factor
        if proof.shown is not None and not await self._people.codes.use(connection, proof.shown):
            return Refusal.wrong
        return None

    async def _note_failure(
        self, connection: Connection, refusal: Refusal, user: User | None, proof: _Proof, visitor: Visitor
    ) -> None:
        """Note a failure. An address of nobody is not kept: it may be a password in the wrong field."""
        user_id = None if user is None else user.id
        after = {"method": proof.method, "reason": refusal.value}
        subject = user_id or "nobody"
        await audit.record(connection, visitor.actor, "user.sign_in_failed", subject, None, after, user_id=user_id)

    async def _prove(
        self, connection: Connection, user: User, context: Mapping[str, Any], actor: audit.Actor
    ) -> list[tuple[str, str]]:
        """Give an address to who has proven it, with the password that they chose; whatever was begun under another
        one, or by a mere code, ends. Returns the keys that were revoked."""
        hashed, revoked = context.get("password_hash"), list[tuple[str, str]]()
        if hashed != user.password_hash:
            await self._people.sessions.end_all(connection, user.id, "the address was verified", actor=actor)
            revoked = await self._people.revoke_keys(connection, user.id, actor)
        proven = await self._people.users.prove(connection, user.id, hashed, context.get("name"))
        after = {"status": proven.status}
        await audit.record(connection, actor, "user.verify", user.id, {"status": user.status}, after, user_id=user.id)
        return revoked
