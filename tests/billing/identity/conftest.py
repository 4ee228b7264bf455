"""People and their sessions on a database of the test's own."""

import time
from collections.abc import AsyncIterator

import pytest

from billing.database.connection import Database
from billing.identity.sessions import Sessions, TokenRules
from billing.identity.shown import ShownTokens
from billing.identity.signing_keys import KeyRules, SigningKeys
from tests.billing.identity.sessions_support import People
from tests.billing.support import rising_ids


@pytest.fixture
async def people(database_url: str) -> AsyncIterator[People]:
    database, new_id = Database(database_url), rising_ids()
    of_keys = database.another(size=1, timeout_s=10)
    keys = SigningKeys(of_keys, KeyRules(), new_id, time.monotonic)
    shown = ShownTokens(database, keys)
    yield People(database, new_id, keys, Sessions(database, keys, TokenRules(), new_id, shown))
    await database.close()
    await of_keys.close()
