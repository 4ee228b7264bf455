"""What waits for longer than it should is told with its cause."""

from billing.backlogs import MOST_FRESH, Backlogs, read_backlogs

LATE = """
INSERT INTO mail_outbox (id, recipient, subject, body, created_at, error)
VALUES ('a', 'a@example.com', '', '', now() - interval '10 minutes', 'Connection refused'),
    ('b', 'b@example.com', '', '', now(), NULL)
"""
GIVEN_UP = "UPDATE mail_outbox SET failed_at = now(), body = '' WHERE id = 'a'"
NOTICE = """
INSERT INTO notices (account_id, type, data, created_at) VALUES ('acc_1', 'test', '{}', now() - interval '10 minutes')
"""


async def test_mails_and_notices_that_are_late_are_told_with_the_last_error(billing):
    assert (await read_backlogs(billing.database)).troubles() == []
    await billing.database.execute(LATE)
    await billing.database.execute(NOTICE)
    assert (await read_backlogs(billing.database)).troubles() == [
        ("mail", "1 mails have waited for more than 5 minutes (Connection refused)"),
        ("notices", "1 notices have waited for more than 5 minutes"),
    ]
    await billing.database.execute(GIVEN_UP)
    (mail, _) = (await read_backlogs(billing.database)).troubles()
    assert mail == ("mail", "1 mails were given up in the last day (Connection refused)")


def test_each_backlog_is_a_clause_of_its_own():
    found = Backlogs(2, 3, None, 0, 1, 4, "it is away", 5, MOST_FRESH + 1).troubles()
    assert [about for about, _ in found] == ["mail", "webhooks", "payments", "debits", "sums"]
    assert found[0][1] == "2 mails have waited for more than 5 minutes and 3 mails were given up in the last day"
    assert found[2][1].endswith("(it is away)")
