"""Users: their addresses, what state they are in, and who may change it."""

import asyncio

import pytest

from billing import audit
from billing.database.connection import DatabaseError, UniqueViolation
from billing.identity.users import User, UserNotFound, UserRefused, Users
from billing.mail import BadAddress, enqueue, parse_email
from billing.permissions import Approval
from tests.billing.support import Billing


def users_of(billing: Billing, approval: Approval = "verified") -> Users:
    return Users(billing.database, billing.new_id, approval)


async def registered(billing: Billing, users: Users, email: str = "ada@example.com", *, verified: bool = False) -> User:
    async with billing.database.transaction() as connection:
        user = await users.register(connection, email, "Ada", verified=verified)
    assert user is not None
    return user


@pytest.mark.parametrize("text", ["Ada@Example.COM", " ada@example.com "])
def test_an_address_is_kept_in_lower_case(text):
    assert parse_email(text) == "ada@example.com"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@@example.com",
        "ada b@example.com",
        "ada@example.com\r\nBcc: x@y.org",
        "ada@exam_ple.com",
        "a..b@example.com",
        "ſam@example.com",
        "a" * 65 + "@example.com",
        "ada@" + "a." * 130,
        "<ada@example.com>",
        "ada@example.com,eve@example.com",
        "ada@-example.com",
        "ada@example.com\0",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(BadAddress):
        parse_email(text)


@pytest.mark.parametrize(
    ("approval", "at_first", "once_verified"),
    [("open", "active", "active"), ("verified", "pending", "active"), ("approved", "pending", "pending")],
)
async def test_the_policy_lets_a_user_in(billing, approval, at_first, once_verified):
    users = users_of(billing, approval)
    user = await registered(billing, users)
    assert (user.status, user.verified) == (at_first, False)
    async with billing.database.transaction() as connection:
        proven = await users.prove(connection, user.id, None)
    assert (proven.status, proven.verified) == (once_verified, True)
    assert (await users.approve(user.id, audit.ADMIN)).status == "active"


async def test_an_address_is_one_user_s_alone(billing):
    users = users_of(billing)
    first = await registered(billing, users)
    other = await registered(billing, users, "eve@example.com")
    async with billing.database.transaction() as connection:
        assert await users.register(connection, "ada@example.com", "Eve", verified=False) is None
        found = await users.by_email(connection, "ada@example.com")
    assert found == first
    with pytest.raises(UniqueViolation):
        async with billing.database.transaction() as connection:
            await users.set_email(connection, other.id, "ada@example.com")


async def test_registering_twice_at_once_makes_one_user(billing):
    users = users_of(billing)

    async def register():
        async with billing.database.transaction() as connection:
            return await users.register(connection, "ada@example.com", "Ada", verified=False) is not None

    assert sorted(await asyncio.gather(*(register() for _ in range(4)))) == [False, False, False, True]


async def test_users_are_listed_newest_first_and_by_state(billing):
    users = users_of(billing)
    made = [await registered(billing, users, f"{name}@example.com") for name in "abc"]
    await users.approve(made[1].id, audit.ADMIN)
    page = await users.page(2)
    assert [user.email for user in page.items] == ["c@example.com", "b@example.com"]
    assert [user.email for user in (await users.page(2, page.next_after)).items] == ["a@example.com"]
    assert [user.id for user in (await users.page(9, status="active")).items] == [made[1].id]
    assert [user.id for user in (await users.page(9, email="c@example.com")).items] == [made[2].id]


async def test_changes_of_a_user_are_audited_and_guarded(billing):
    users = users_of(billing)
    user = await registered(billing, users)
    with pytest.raises(UserRefused):
        await users.enable(user.id, audit.ADMIN)  # enabling is no way around the policy
    await users.approve(user.id, audit.ADMIN)
    with pytest.raises(UserRefused, match="second factor"):
        await users.set_operator(user.id, True, audit.ADMIN)
    await billing.database.execute("UPDATE users SET totp_confirmed_at = now() WHERE id = $1", user.id)
    assert (await users.set_operator(user.id, True, audit.ADMIN)).operator
    disabled = await users.disable(user.id, audit.ADMIN)
    assert (disabled.status, disabled.operator) == ("disabled", False)
    with pytest.raises(UserRefused):
        await users.approve(user.id, audit.ADMIN)
    with pytest.raises(UserNotFound):
        await users.get("usr_none")
    rows = await billing.database.rows("SELECT action FROM audit_log WHERE user_id = $1 ORDER BY id", user.id)
    assert [row["action"] for row in rows] == ["user.approve", "user.operator", "user.disable"]


async def test_a_mail_is_there_once_its_transaction_is(billing):
    async with billing.database.transaction() as connection:
        await enqueue(connection, billing.new_id, "ada@example.com", "Hello", "Text\n")
    with pytest.raises(DatabaseError):  # noqa: PT012 - the commit is a part of it
        async with billing.database.transaction() as connection:
            await enqueue(connection, billing.new_id, "eve@example.com", "Hello", "Text\n")
            await connection.execute("SELECT 1 / 0")
    rows = await billing.database.rows("SELECT recipient, subject, body FROM mail_outbox")
    assert [tuple(row) for row in rows] == [("ada@example.com", "Hello", "Text\n")]


async def test_a_mail_s_headers_are_one_line(billing):
    async with billing.database.transaction() as connection:
        with pytest.raises(ValueError, match="one line"):
            await enqueue(connection, billing.new_id, "ada@example.com", "Hi\r\nBcc: eve@example.com", "Text")
