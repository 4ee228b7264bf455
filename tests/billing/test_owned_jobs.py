"""Jobs that nobody polls any more are taken over, by releases that can read them."""

from billing.ledger.debits import encode_debit
from billing.owned import BackgroundJobs
from tests.billing.ledger.test_verify import nothing_charged

LAPSED = """INSERT INTO background_jobs (object_id, provider, kind, model, request_id, later_id, gateway_id, debit,
    expires_at, lease_owner, lease_until)
VALUES ($1, 'p', 'response', 'm', $1, $1 || 'later', 'gone', $2, now() + interval '1 day', 'gone',
    now() - interval '1 second')"""


async def test_a_job_that_can_not_be_read_keeps_no_other_from_being_taken_over(billing, caplog):
    for name, payload in (
        ("garbage", b"\xc1"),
        ("whole", encode_debit(nothing_charged("a", "whole", "settled", True))),
    ):
        await billing.database.execute(LAPSED, name, payload)
    jobs = BackgroundJobs(billing.database, billing.change_notifier, "mine", 30.0)
    assert [job.object_id for job in await jobs.claim(10)] == ["whole"]
    assert "background job garbage can't be polled by this release" in caplog.text
