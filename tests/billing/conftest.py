"""The domain of accounts, keys, grants and reports on a database of the test's own."""

from collections.abc import AsyncIterator

import pytest

from billing.accounts.accounts import Accounts
from billing.accounts.grants import Grants
from billing.accounts.member_limits import MemberLimits
from billing.database.connection import Database
from billing.keys.keys import ApiKeys, Principals
from billing.ledger.reports import Reports
from tests.billing.support import PLANS, Billing, RecordingEffects, rising_ids


@pytest.fixture
async def billing(database_url: str) -> AsyncIterator[Billing]:
    database = Database(database_url)
    effects, new_id = RecordingEffects(), rising_ids()
    yield Billing(
        database=database,
        effects=effects,
        accounts=Accounts(database, PLANS, effects, new_id),
        member_limits=MemberLimits(database, effects),
        keys=ApiKeys(database, effects, new_id),
        principals=Principals(database, PLANS),
        grants=Grants(database, effects, new_id),
        reports=Reports(database),
        new_id=new_id,
    )
    await database.close()
