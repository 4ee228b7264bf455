"""The domain of accounts, keys, grants and reports on a database of the test's own."""

import time
from collections.abc import AsyncIterator

import pytest

from billing.accounts.accounts import Account, Accounts, MemberLimits
from billing.accounts.grants import Grants
from billing.database.connection import Database
from billing.identity.sessions import Sessions
from billing.identity.tokens import SigningKeys, TokenRules
from billing.keys.keys import ApiKeys, Principals
from billing.ledger.reports import Reports
from tests.billing.identity.sessions_support import People
from tests.billing.support import PLANS, Billing, RecordingEffects, rising_ids


@pytest.fixture
async def billing(database_url: str) -> AsyncIterator[Billing]:
    database = Database(database_url)
    effects, new_id = RecordingEffects(), rising_ids()
    yield Billing(
        database=database,
        change_notifier=effects,
        accounts=Accounts(database, PLANS, effects, new_id),
        member_limits=MemberLimits(database, effects),
        keys=ApiKeys(database, effects, new_id),
        principals=Principals(database, PLANS),
        grants=Grants(database, effects, new_id),
        reports=Reports(database),
        new_id=new_id,
    )
    await database.close()


@pytest.fixture
async def account(billing: Billing) -> Account:
    """A new account, without credit."""
    return await billing.accounts.create("Acme")


@pytest.fixture
async def account_id(account: Account) -> str:
    return account.id


@pytest.fixture
async def people(billing: Billing) -> AsyncIterator[People]:
    """People and their sessions."""
    of_keys = billing.database.another(size=1, timeout_s=10)
    keys = SigningKeys(of_keys, TokenRules(), billing.new_id, time.monotonic)
    yield People(billing.database, billing.new_id, Sessions(billing.database, keys, billing.new_id))
    await of_keys.close()
