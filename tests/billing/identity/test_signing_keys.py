"""The keys that sign: made once for all gateways, published before they sign, and gone when their tokens are."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import jwt
import pytest

from billing.database.connection import Database
from billing.identity.sessions import FORGET
from billing.identity.tokens import BadToken, Claims, SigningKeys, TokenRules, peek
from billing.owned import Retention
from billing.settings import RetentionSettings
from tests.billing.identity.sessions_support import SOMEBODY
from tests.billing.support import rising_ids

CLAIMS = {"iss": "metergate", "sub": "ann", "exp": 2_000_000_000}
MakeKeys = Callable[..., SigningKeys]


class Clock:
    """Monotonic seconds, which a test turns on."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url, size=6)
    yield made
    await made.close()


def keys_of(database: Database, clock: Callable[[], float] = time.monotonic, **rules: object) -> SigningKeys:
    return SigningKeys(database, TokenRules(**rules), rising_ids(), clock)


async def kid_of(keys: SigningKeys) -> str:
    return str(peek(await keys.sign(CLAIMS))[0].kid)


async def test_gateways_that_start_at_once_make_one_pair(database):
    gateways = [keys_of(database) for _ in range(5)]
    tokens = await asyncio.gather(*(gateway.sign(CLAIMS) for gateway in gateways))
    assert await database.value("SELECT count(*) FROM signing_keys") == 2
    for token in tokens:
        for gateway in gateways:
            assert (await gateway.verify(token, peek(token)[0].kid, Claims)).sub == "ann"


async def test_what_is_published_is_public_and_has_the_next_one(database):
    keys = keys_of(database)
    token, published = await keys.sign(CLAIMS), await keys.published()
    assert len(published) == 2
    for each in published:
        assert set(each) == {"kty", "n", "e", "kid", "use", "alg"}
    found = jwt.PyJWKSet.from_dict({"keys": list(published)})[str(peek(token)[0].kid)]
    assert jwt.decode(token, found.key, ["RS256"])["sub"] == "ann"


async def test_rotation(database):
    clock = Clock()
    keys, other = keys_of(database, clock), keys_of(database, clock)
    old_token, first = await keys.sign(CLAIMS), await kid_of(keys)
    second = next(each["kid"] for each in await keys.published() if each["kid"] != first)
    assert await kid_of(other) == first
    await database.execute("UPDATE signing_keys SET active_from = active_from - interval '30 days'")
    assert await kid_of(keys) == first, "read a moment ago"
    clock.at += 61
    assert await kid_of(keys) == second
    assert {each["kid"] for each in await keys.published()} > {first, second}
    assert (await keys.verify(old_token, first, Claims)).sub == "ann"
    row = await database.row(
        "SELECT private_pem, retired_at > now() AS verifies FROM signing_keys WHERE kid = $1", first
    )
    assert row is not None
    assert tuple(row) == ("", True), "it signs nothing more, and verifies"
    token = await keys.sign(CLAIMS)
    assert (await other.verify(token, second, Claims)).sub == "ann", "a process that has not read them anew knows it"
    await database.execute("UPDATE signing_keys SET retired_at = now() WHERE kid = $1", first)
    clock.at += 61
    with pytest.raises(BadToken):
        await keys.verify(old_token, first, Claims)
    assert await database.value(FORGET[3], 10) == 1


async def test_a_key_that_was_made_elsewhere_is_found_at_once(database):
    clock = Clock()
    keys, other = keys_of(database, clock), keys_of(database, clock)
    await keys.sign(CLAIMS)
    await database.execute("DELETE FROM signing_keys")
    token = await other.sign(CLAIMS)
    clock.at += 2
    assert (await keys.verify(token, peek(token)[0].kid, Claims)).sub == "ann"
    for kid in ("unknown", None):
        with pytest.raises(BadToken):
            await keys.verify(token, kid, Claims)


async def test_a_shared_secret_instead(database):
    keys, others = keys_of(database, secret="s" * 32), keys_of(database, secret="t" * 32)
    token = await keys.sign(CLAIMS)
    assert (await keys.verify(token, None, Claims)).sub == "ann"
    assert await keys.published() == ()
    assert await database.value("SELECT count(*) FROM signing_keys") == 0
    assert "ssss" not in repr(keys.rules)
    by_keys = keys_of(database)
    for believer, kid in ((others, None), (keys, "kid"), (by_keys, None)):
        with pytest.raises(BadToken):
            await believer.verify(token, kid, Claims)
    token = await by_keys.sign(CLAIMS)
    with pytest.raises(BadToken):
        await keys.verify(token, None, Claims)


async def test_what_is_over_is_deleted_in_batches(people):
    database = people.database
    user_id = await people.user()
    ended, living, expired = [await people.sign_in(user_id) for _ in range(3)]
    refreshed = await people.sessions.refresh(living.refresh_token, SOMEBODY)
    async with database.transaction() as connection:
        await people.sessions.end(connection, ended.session_id, "logout")
    execute = database.execute
    await execute("UPDATE sessions SET ended_at = now() - interval '25 hours' WHERE ended_at IS NOT NULL")
    await execute("UPDATE sessions SET expires_at = now() - interval '25 hours' WHERE id = $1", expired.session_id)
    await execute("UPDATE refresh_tokens SET expires_at = now() WHERE rotated_at IS NOT NULL")
    await execute(
        "INSERT INTO revoked_tokens SELECT g::text, '', null, now(), now() + (g - 3) * interval '1 day' "
        "FROM generate_series(1, 5) g"
    )
    retention = Retention(database, RetentionSettings(), "one", beside=FORGET)
    assert await retention.forget(batch_rows=2) == 2 + 1 + 3
    assert await retention.forget() == 0
    assert await database.value("SELECT count(*) FROM sessions") == 1
    assert await people.sessions.refresh(refreshed.refresh_token, SOMEBODY)


async def test_who_refreshes_in_a_loop_fills_nothing(people, monkeypatch):
    monkeypatch.setattr("billing.identity.sessions.MOST_USED", 3)
    pair = await people.sign_in(await people.user())
    first = pair.refresh_token
    for _ in range(8):
        found = await people.sessions.refresh(pair.refresh_token, SOMEBODY)
        assert found is not None
        pair = found
    assert await people.database.value("SELECT count(*) FROM refresh_tokens") == 4
    assert await people.sessions.refresh(first, SOMEBODY) is None
    assert await people.caller(pair)
