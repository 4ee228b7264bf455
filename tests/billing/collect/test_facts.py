"""Facts and money are a matter of the set of points: in whatever order, pages and repetitions they come."""

import itertools
from collections import defaultdict
from datetime import timedelta
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.collect.snapshots import FirstPoint
from billing.collect.subjects import SubjectRules
from billing.money import ceil_div
from tests.billing.collect.support import NOW, START, Room, Said, minutes_of
from tests.billing.support import Billing

SAID: Final = st.builds(
    Said,
    node=st.sampled_from(["n1", "n2"]),
    at=st.integers(0, 9).map(lambda step: START + step * timedelta(seconds=25)),
    uuid=st.sampled_from(["a", "b"]),
    tag=st.sampled_from(["", "x"]),
    up=st.sampled_from([0, 1, 2, 5, 9, 100]),
    down=st.sampled_from([0, 3, 7]),
)
PER_BYTE: Final = 3 * 10**8
"""0.3 nano-USD."""
INCLUDED: Final = 20
INITIAL: Final = 1000
numbers = itertools.count()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(SAID, min_size=1, max_size=8), min_size=1, max_size=5),
    st.sampled_from(["new", "new", "baseline", "zero"]),
)
async def test_facts_and_money_are_a_matter_of_the_set(
    billing: Billing, pages: list[list[Said]], rule: FirstPoint
) -> None:
    number = next(numbers)
    pages = [[each._replace(uuid=f"{each.uuid}{number}") for each in page] for page in pages]
    rules = SubjectRules(initial_nano=INITIAL, included_bytes=INCLUDED)
    room = Room(billing, f"s{number}", rule=rule, per_byte_scaled=PER_BYTE, rules=rules)
    for done, page in enumerate(pages):
        await room.write(page)
        if done % 2:
            await room.subjects.settle()
            await room.debits.round(NOW)
    again = await room.write([each for page in pages for each in page])
    assert again.written_minutes == 0
    assert again.replayed_minutes > 0
    await room.subjects.settle()
    await room.debits.round(NOW)
    expected = minutes_of([each for page in pages for each in page], rule)
    assert await room.minutes() == expected
    used: dict[str, int] = defaultdict(int)
    for (_, uuid, _, _), (up, down) in expected.items():
        used[uuid] += up + down
    rows = await billing.database.rows(
        "SELECT s.uuid, a.balance_nano FROM collected_subjects AS s JOIN accounts AS a ON a.id = s.account_id "
        "WHERE s.uuid = ANY ($1::text[])",
        list(used),
    )
    charges = {uuid: ceil_div(max(0, count - INCLUDED) * PER_BYTE, 10**9) for uuid, count in used.items()}
    assert {row["uuid"]: row["balance_nano"] for row in rows} == {
        uuid: INITIAL - charged for uuid, charged in charges.items()
    }
    assert await billing.database.value("SELECT count(*) FROM collected_growth") == 0
    assert await billing.database.value("SELECT count(*) FROM collected_due") == 0
