"""A quota that is used up is told once in its window, by however many refusals and processes."""

from typing import Any

from billing.notices.exhausted import ExhaustedNotices, crossings
from billing.refused_requests import RefusedRequest

QUOTA = {"subject": "plan", "window": "day", "metric": "tokens", "limit": 5, "resets_at": "2028-03-01T00:00:00Z"}


def refused(quota: dict[str, Any], *, key_id: str = "key_1", code: str = "quota_exceeded") -> RefusedRequest:
    details = {"quota": quota, "upgrade": {"plan": "pro"}}
    return RefusedRequest("req_1", 0, "acc_1", key_id, "/v1/chat/completions", None, 429, code, "", details)


def test_what_counts_as_one_crossing():
    same = [refused(QUOTA | {"used": used}, key_id=f"key_{used}") for used in (5, 6)]
    assert len(crossings(same)) == 1  # the plan's, whichever key it was
    assert len(crossings([*same, refused(QUOTA | {"resets_at": "2028-03-02T00:00:00Z"})])) == 2
    assert len(crossings([refused(QUOTA | {"subject": "key"}, key_id=key) for key in ("a", "b")])) == 2
    assert len(crossings([refused(QUOTA | {"metric": "cost", "limit": "20.00", "remaining": "1.00"})])) == 1
    assert crossings([refused(QUOTA | {"limit": 20, "remaining": 2})]) == []  # one request asked for more than is left
    assert crossings([refused(QUOTA | {"window": "minute"}), refused(QUOTA, code="capacity_held")]) == []


async def test_it_is_told_once_by_several_processes(billing):
    processes = [ExhaustedNotices(billing.database) for _ in range(2)]
    for process in processes:
        for _ in range(2):
            await process.notify([refused(QUOTA)])
    rows = await billing.database.rows("SELECT account_id, type, data FROM notices")
    assert [(row["account_id"], row["type"], row["data"]["upgrade"]) for row in rows] == [
        ("acc_1", "quota.exhausted", {"plan": "pro"})
    ]
