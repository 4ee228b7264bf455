"""Whom other issuers sign in: made once, found again, and ended as others are."""

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from billing.audit import Actor
from billing.identity.organizations import found
from billing.identity.sessions import Sessions
from billing.identity.tokens import SigningKeys, TokenRules
from billing.identity.users import Subjects, Users
from billing.permissions import ROLES
from tests.billing.identity.issued import GOOD, SHARED, hs256, rs256, shown
from tests.billing.support import Billing

VERIFIED: dict[str, Any] = {**GOOD, "email": "ann@example.com", "email_verified": True}


async def founded(billing: Billing, connection: Any, user_id: str, name: str, actor: Actor) -> object:
    return await found(connection, billing.new_id, "free", user_id=user_id, name=name, personal=True, actor=actor)


@pytest.fixture
def believer(billing: Billing) -> Sessions:
    """What believes the tokens of `test_tokens`, on the test's database."""
    own = SigningKeys(billing.database, TokenRules(secret="own" * 11), billing.new_id, time.monotonic)
    users = Users(billing.database, billing.new_id)
    subjects = Subjects(billing.database, users, partial(founded, billing))
    return Sessions(billing.database, own, billing.new_id, foreign=shown()._foreign, subjects=subjects)


async def test_a_subject_is_made_once(believer, billing):
    callers = await asyncio.gather(*(believer.caller(rs256(VERIFIED), None) for _ in range(10)))
    assert len({caller and caller.id for caller in callers}) == 1
    caller = callers[0]
    assert (caller.email, caller.verified, caller.role, caller.scopes) == (
        "ann@example.com",
        True,
        "owner",
        ROLES["owner"],
    )
    assert (caller.session_id, caller.token_id, caller.operator) == (None, "1", False)
    assert await billing.database.value("SELECT count(*) FROM users") == 1
    assert await billing.database.value("SELECT name FROM organizations WHERE personal") == "ann"


async def test_subjects_of_two_issuers_are_two_users(believer):
    tokens = [rs256(GOOD), hs256(SHARED), hs256({**SHARED, "iss": "third"}), rs256({**GOOD, "sub": "bob"})]
    callers = [await believer.caller(token, None) for token in tokens]
    assert len({caller and caller.id for caller in callers}) == 4
    assert all(caller and caller.email is None and not caller.verified for caller in callers)


async def test_an_address_leads_to_nobody_who_is_there(believer, people):
    user_id = await people.user()
    caller = await believer.caller(rs256(VERIFIED), None)
    assert (caller.id == user_id, caller.email) == (False, None)


async def test_operators_of_other_issuers(believer, people):
    token = rs256({**GOOD, "aud": "staff", "role": "admin"})
    caller = await believer.caller(token, None)
    assert caller.operator
    await people.database.execute("UPDATE users SET operator = true, totp_confirmed_at = now()")
    caller = await believer.caller(rs256(GOOD), None)
    assert not caller.operator, "what somebody is here gives another issuer's token nothing"
    await people.database.execute("UPDATE users SET status = 'pending'")
    caller = await believer.caller(token, None)
    assert (caller.operator, caller.scopes) == (False, frozenset())


@pytest.mark.parametrize("ended", ["jti", "all", "disabled"])
async def test_what_ends_a_token_of_another_issuer(believer, people, ended):
    token = rs256({**GOOD, "jti": "one", "iat": int(time.time()) - 5})
    caller = await believer.caller(token, None)
    assert caller is not None
    async with people.database.transaction() as connection:
        match ended:
            case "jti":
                assert await people.sessions.revoke(connection, caller.id, "one", "lost", Actor("user:x"))
            case "all":
                await people.sessions.end_all(connection, caller.id, "lost")
            case "disabled":
                await connection.execute("UPDATE users SET status = 'disabled'")
    assert await believer.caller(token, None) is None
    other = rs256({**GOOD, "jti": "two", "iat": int(time.time()) + 2})
    assert (await believer.caller(other, None) is None) == (ended == "disabled")
    assert await people.database.value("SELECT count(*) FROM users") == 1


async def test_a_token_narrows(believer):
    caller = await believer.caller(rs256({**GOOD, "scope": "openid billing:read org:transfer bogus:scope"}), None)
    assert caller.scopes == {"billing:read", "org:transfer"}
