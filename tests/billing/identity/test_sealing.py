"""Encrypted secrets: bound to one purpose, decrypted only with the key that encrypted them, and encrypted again with a
new one."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.database.connection import Database
from billing.identity.encryption import PREFIX, SealBroken, Sealer
from billing.identity.tokens import Claims, SigningKeys, TokenRules
from tests.billing.support import rising_ids

OLD, NEW = "an old secret of 32 bytes or more", "a new secret of 32 bytes or more"


@given(st.text())
def test_what_is_sealed_is_opened_again(text):
    sealer = Sealer(NEW)
    sealed = sealer.seal(text, "totp usr_1")
    assert sealed.startswith(PREFIX)
    assert sealed != sealer.seal(text, "totp usr_1")
    assert sealer.open(sealed, "totp usr_1") == text == Sealer(None, NEW).open(sealed, "totp usr_1")
    assert (sealer.is_stale(sealed), sealer.is_stale(text), Sealer().is_stale(text)) == (False, True, False)
    assert Sealer().seal(text, "totp usr_1") == text


def test_nothing_else_opens_it():
    sealed = Sealer(OLD).seal("JBSWY3DP", "totp usr_1")
    assert "JBSWY3DP" not in sealed
    assert Sealer(NEW, OLD).open(sealed, "totp usr_1") == "JBSWY3DP"
    assert Sealer(NEW, OLD).is_stale(sealed)
    changed = sealed[:-8] + ("A" if sealed[-8] != "A" else "B") + sealed[-7:]
    for sealer, stored, what in (
        (Sealer(NEW), sealed, "totp usr_1"),
        (Sealer(), sealed, "totp usr_1"),
        (Sealer(OLD), sealed, "totp usr_2"),
        (Sealer(OLD), changed, "totp usr_1"),
        (Sealer(OLD), sealed[:-1], "totp usr_1"),
        (Sealer(OLD), PREFIX, "totp usr_1"),
    ):
        with pytest.raises(SealBroken, match="SECRETS_KEY"):
            sealer.open(stored, what)
    assert OLD not in repr(Sealer(OLD))


async def test_keys_that_sign_are_sealed_and_stay_the_same(database_url):
    database, new_id = Database(database_url), rising_ids()

    def keys(sealer):
        return SigningKeys(database, TokenRules(), new_id, time.monotonic, sealer)

    async def begin_with(text):
        rows = await database.rows("SELECT private_pem FROM signing_keys")
        return len(rows) == 2 and all(row["private_pem"].startswith(text) for row in rows)

    token = await keys(Sealer()).sign({"sub": "usr_1", "exp": 1})
    assert await begin_with("-----BEGIN PRIVATE KEY-----")
    kid = (await keys(Sealer(OLD)).published())[0]["kid"]
    assert await begin_with(PREFIX)
    assert (await keys(Sealer(NEW, OLD)).verify(token, kid, Claims)).sub == "usr_1"
    assert await begin_with(PREFIX)
    await keys(Sealer(NEW)).sign({"sub": "usr_1", "exp": 1})
    for wrong in (Sealer(OLD), Sealer()):
        with pytest.raises(SealBroken):
            await keys(wrong).sign({"sub": "usr_1", "exp": 1})
    await database.close()
