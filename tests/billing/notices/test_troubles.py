"""Troubles are told once they last, once, and their end once it lasts; whichever gateway looks."""

from billing.notices.troubles import LASTING_ROUNDS, TroubleNotices


async def told(billing):
    written = "SELECT type, data FROM notices WHERE type LIKE 'trouble.%' ORDER BY created_at, id"
    rows = await billing.database.rows(written)
    return [(row["type"].removeprefix("trouble."), row["data"]["about"]) for row in rows]


async def test_what_lasts_is_told_once_and_its_end_once(billing):
    found = {}
    notices = TroubleNotices(billing.database, lambda: found, "this")

    async def rounds(number, by=notices):
        for _ in range(number):
            await by.round()

    found["postgres"] = "5 debits wait for Postgres"
    await rounds(LASTING_ROUNDS - 1)
    found.clear()
    await rounds(1)
    assert await told(billing) == []  # it was over before anybody could have looked
    found["provider:openai"] = "provider openai fails: 9 of 10 attempts"
    await rounds(LASTING_ROUNDS)
    assert await told(billing) == [("began", "provider:openai")]
    other = TroubleNotices(billing.database, lambda: found, "other")
    await rounds(2 * LASTING_ROUNDS, other)
    assert await told(billing) == [("began", "provider:openai")]
    found.clear()
    await rounds(LASTING_ROUNDS - 1)
    found["provider:openai"] = "again"
    await rounds(1)
    found.clear()
    await rounds(LASTING_ROUNDS)
    assert await told(billing) == [("began", "provider:openai"), ("ended", "provider:openai")]
    found["provider:openai"] = "and again"
    await rounds(LASTING_ROUNDS)
    assert len(await told(billing)) == 3
