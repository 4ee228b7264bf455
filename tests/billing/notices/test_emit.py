"""A notice is written or rolled back with its transaction, and once for each event."""

from contextlib import suppress

import pytest

from billing.notices.emit import emit


async def test_a_notice_is_written_with_its_transaction_and_once(billing):
    async with billing.database.transaction() as connection:
        first = await emit(connection, "acct_1", "payment.failed", {"amount_usd": "5"}, once="pi_1")
        assert await emit(connection, "acct_1", "payment.failed", {"amount_usd": "6"}, once="pi_1") is None
        other = await emit(connection, "acct_2", "payment.failed", {}, once="pi_1")
        again = [await emit(connection, "acct_1", "key.created", {}) for _ in range(2)]
        with pytest.raises(ValueError, match="no type of notice"):
            await emit(connection, "acct_1", "key.lost", {})
    with suppress(RuntimeError):
        async with billing.database.transaction() as connection:
            await emit(connection, "acct_3", "key.revoked", {})
            raise RuntimeError
    stored = await billing.database.rows("SELECT id, account_id, data FROM notices")
    assert {row["id"] for row in stored} == {first, other, *again}
    assert len(stored) == 4
    assert {row["account_id"] for row in stored} == {"acct_1", "acct_2"}
    assert next(row["data"] for row in stored if row["id"] == first) == {"amount_usd": "5"}
