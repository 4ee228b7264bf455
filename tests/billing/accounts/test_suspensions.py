"""Several causes of a suspension stand at once; only the end of the last one lifts it."""

from billing.accounts.accounts import lift, suspend


async def test_a_suspension_lasts_as_long_as_a_cause(billing, account):
    await billing.accounts.update(account.id, status="past_due")

    async def after(*steps):
        async with billing.database.transaction() as connection:
            for suspends, cause in steps:
                await (suspend if suspends else lift)(connection, account.id, cause)
        return (await billing.accounts.get(account.id)).status

    assert (
        await after((True, "dispute:1"), (True, "dispute:2"), (True, "dispute:1"), (False, "dispute:1")) == "suspended"
    )
    assert await after((False, "dispute:2"), (False, "dispute:2")) == "past_due"
    assert (await billing.accounts.get(account.id)).past_due_since is not None

    # what an operator orders meanwhile stays, although the status does not change by it
    assert await after((True, "dispute:3")) == "suspended"
    await billing.accounts.update(account.id, status="suspended")
    assert await after((False, "dispute:3")) == "suspended"
    # and an operator who makes it active lifts everything, for good
    await after((True, "dispute:4"))
    await billing.accounts.update(account.id, status="active")
    assert await after((False, "dispute:4")) == "active"

    await billing.accounts.update(account.id, status="closed")
    assert await after((True, "dispute:5"), (False, "dispute:5")) == "closed"
