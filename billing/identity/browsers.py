"""Browsers: sessions that a cookie shows, and the links by which an operator begins one without a user.

A cookie is 256 random bits, of which the digest is stored: it says nothing, and what it stands for is read from
Postgres each time. So what ends a session (its end in the list, `revoke-all`, another password, a disabled user, a
member who was removed) ends the browser's with the next request on every gateway.

A session lasts while it is used: `idle_s` from the last request on, and `most_s` in all. That of a link acts as the
admin key does; digests of links, and of the cookies they lead to, are HMACs by the admin key, so that another key ends
all of them.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from billing import audit
from billing.database.connection import Database, queries
from billing.identity.providers import CONSOLE
from billing.identity.sessions import ID_PREFIX, person_of, shown_agent
from billing.principals import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from billing.identity.credentials import Visitor

_query = queries("billing.identity")
# What the cookie of an operator without a user begins with.
OPERATORS: Final = "o."
SECRET_BYTES: Final = 32
MOST_SECRET: Final = 64
# How long an operator sees pages as a customer does.
SEEN_S: Final = 3600
OVER: Final = "its provider lets this domain in no more"


@dataclass(frozen=True, slots=True)
class BrowserRules:
    """`url` is the gateway's address for browsers, without a slash at its end; with `secure` they are only served over
    TLS. A session ends `idle_s` after it was last used and `most_s` after it began, an operator's by a link
    `operator_s` after it began; a link is good for `link_s`."""

    url: str = "http://127.0.0.1:8080"
    secure: bool = False
    idle_s: int = 24 * 3600
    most_s: int = 30 * 24 * 3600
    operator_s: int = 12 * 3600
    link_s: int = 600

    def __post_init__(self) -> None:
        if min(self.idle_s, self.most_s, self.operator_s, self.link_s) <= 0:
            raise ValueError("a session and a link last longer than no time")

    @property
    def cookie(self) -> str:
        """Return the cookie's name: over TLS no other host may have set it (RFC 6265bis, section 4.1.3)."""
        return "__Host-mg_session" if self.secure else "mg_session"


@dataclass(frozen=True, slots=True)
class LoginLink:
    """A link by which an operator begins a session, once."""

    url: str = field(repr=False)
    expires_at: datetime

    @property
    def secret(self) -> str:
        """Return what the link's address ends with."""
        return self.url.rpartition("/")[2]


class Browsers:
    """Begins, knows and ends the sessions of browsers. `admits` is as for `Sessions`. Methods raise `DatabaseError`."""

    def __init__(
        self,
        database: Database,
        new_id: Callable[[], str],
        admin_key: str | None,
        rules: BrowserRules | None = None,
        admits: Callable[[str, str | None], bool] = lambda provider, domain: True,
    ) -> None:
        self.rules = rules or BrowserRules()
        self._database, self._new_id, self._admits = database, new_id, admits
        self._admin_key = (admin_key or "").encode()

    async def bind(self, session_id: str) -> str | None:
        """Return the cookie that carries on a session, whose tokens nobody was shown, from now on; None where it has
        ended."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        bound = _query("browsers_bind"), session_id, self._digest(secret), self.rules.idle_s
        return None if await self._database.value(*bound) is None else secret

    async def caller(self, secret: str, *, used: bool = True) -> Caller | None:
        """Return who shows a cookie, as what they are now in the organization that the session is about; None for one
        that is over. What is not `used`, as a page that looks again by itself, does not prolong it."""
        if not 0 < len(secret) <= MOST_SECRET:
            return None
        digest = self._digest(secret)
        row = await self._database.row(
            _query("browsers_caller"), digest, used and not _is_operators(secret), self.rules.idle_s, self.rules.most_s
        )
        if row is None:
            return None
        if row["kind"] == "operator":
            return Caller("admin", session_id=row["session_id"]) if self._admin_key else None
        if row["provider"] is not None and not self._admits(row["provider"], row["domain"]):
            await self.end(secret, OVER, audit.SYSTEM)
            return None
        limit = None if row["scopes"] is None else frozenset(row["scopes"])
        return person_of(row, limit, session_id=row["session_id"], token_id=None)

    async def choose(self, session_id: str, org_id: str) -> bool:
        """Have a session be about another one of its user's organizations. Returns whether it is one."""
        return await self._database.value(_query("browsers_choose"), session_id, org_id) is not None

    async def see(self, session_id: str, account_id: str | None, actor: audit.Actor) -> str | None:
        """Have an operator's session see the pages of an account as its customer does, for an hour at most, or its own
        again; both are in the audit log. Returns the account that it saw until now."""
        async with self._database.transaction() as connection:
            seen: str | None = await connection.fetchval(_query("browsers_see"), session_id, account_id, SEEN_S)
            for about, action in ((seen, "account.see_end"), (account_id, "account.see")):
                if about is not None:
                    await audit.record(connection, actor, action, about, None, None, account_id=about)
        return seen

    async def seen(self, session_id: str) -> str | None:
        """Return the account whose pages a session sees; None: its own."""
        seen: str | None = await self._database.value(_query("browsers_seen"), session_id)
        return seen

    async def end(self, secret: str, reason: str, actor: audit.Actor) -> None:
        """End the session of a cookie; one that is over stays so."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_query("browsers_end"), self._digest(secret), reason)
            if row is not None:
                details = {"reason": reason}
                await audit.record(connection, actor, "session.end", row["id"], None, details, user_id=row["user_id"])

    async def make_link(self, actor: audit.Actor) -> LoginLink:
        """Return a new link by which an operator begins a session: once, and soon. Raises `ValueError` where there is
        no admin key."""
        if not self._admin_key:
            raise ValueError("without an admin key nobody is an operator by it")
        secret = secrets.token_urlsafe(SECRET_BYTES)
        async with self._database.transaction() as connection:
            expires_at = await connection.fetchval(_query("browsers_link"), self._keyed(secret), self.rules.link_s)
            details: Mapping[str, object] = {"expires_at": expires_at.isoformat()}
            await audit.record(connection, actor, "operator_link.create", "operator", None, details)
        return LoginLink(f"{self.rules.url}{CONSOLE}/enter/{secret}", expires_at)

    async def link_stands(self, secret: str) -> bool:
        """Return whether a link may still be used; looking at it uses nothing up."""
        stands = _query("browsers_link_standing"), self._keyed(secret)
        return bool(self._admin_key) and await self._database.value(*stands) is not None

    async def enter(self, secret: str, visitor: Visitor) -> str | None:
        """Take a link, and return the cookie of the session that it begins; None for one that is no good."""
        if not self._admin_key:
            return None
        cookie = OPERATORS + secrets.token_urlsafe(SECRET_BYTES)
        session_id = ID_PREFIX + self._new_id()
        async with self._database.transaction() as connection:
            begun = await connection.fetchval(
                _query("browsers_enter"),
                self._keyed(secret),
                session_id,
                self._digest(cookie),
                visitor.network,
                shown_agent(visitor.user_agent),
                self.rules.operator_s,
            )
            if begun is None:
                return None
            own = audit.Actor("admin", visitor.actor.address, visitor.actor.request_id)
            await audit.record(connection, own, "operator.sign_in", session_id, None, {"method": "link"})
        return cookie

    def _digest(self, secret: str) -> bytes:
        return self._keyed(secret) if _is_operators(secret) else sha256(secret.encode(errors="replace")).digest()

    def _keyed(self, secret: str) -> bytes:
        return hmac.digest(self._admin_key, secret.encode(errors="replace"), "sha256")


def _is_operators(secret: str) -> bool:
    return secret.startswith(OPERATORS)
