"""What a notice looks like in each form: nothing that somebody wrote becomes a link or a mention."""

import json
from datetime import UTC, datetime

import pytest

from billing.notices.formats import FORMATS, Notice, body_of
from billing.notices.mail_templates import TYPES

AT = datetime(2027, 1, 31, 12, tzinfo=UTC)
KEY = "0123456789abcdef0123456789ABCDEF"
LOW = Notice("ntc_1", "balance.low", AT, "acc_1", {"balance_usd": "0.50", "threshold_usd": "1.00", "secret": "x"})


def read(notice, format, routing_key=None):
    return json.loads(body_of(notice, format, routing_key))


def trouble(type_, about="provider:openai"):
    return Notice("ntc_2", type_, AT, "", {"about": about, "message": "provider openai fails: 9 of 10 attempts"})


def test_json_is_all_of_it():
    assert read(LOW, "json") == {
        "id": "ntc_1",
        "type": "balance.low",
        "timestamp": "2027-01-31T12:00:00.000Z",
        "account_id": "acc_1",
        "data": LOW.data,
    }
    assert read(trouble("trouble.began"), "json")["account_id"] is None


def test_slack_reads_a_text():
    assert read(LOW, "slack") == {
        "text": "*Your balance is low*\nYour balance has fallen below its threshold. Buy credit to go on.\n"
        "Account: acc_1\nBalance in USD: 0.50\nThreshold in USD: 1.00"
    }
    assert read(trouble("trouble.began"), "slack")["text"] == (
        "*Metergate needs attention*\nprovider openai fails: 9 of 10 attempts"
    )


def test_teams_shows_a_card():
    message = read(LOW, "teams")
    assert message["type"] == "message"
    [attachment] = message["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    heading, text, facts = card["body"]
    assert (heading["text"], heading["wrap"]) == ("Your balance is low", True)
    assert text["text"].startswith("Your balance has fallen")
    assert {"title": "Balance in USD", "value": "0.50"} in facts["facts"]


def test_pagerduty_opens_an_incident_and_the_end_of_the_trouble_resolves_it():
    began, ended = (read(trouble(type_), "pagerduty", KEY) for type_ in ("trouble.began", "trouble.ended"))
    assert (began["event_action"], ended["event_action"]) == ("trigger", "resolve")
    assert began["dedup_key"] == ended["dedup_key"] == "metergate:provider:openai"
    assert began["routing_key"] == KEY
    assert began["payload"]["severity"] == "error"
    assert began["payload"]["summary"] == "Metergate needs attention: provider openai fails: 9 of 10 attempts"
    low = read(LOW, "pagerduty", KEY)
    assert (low["dedup_key"], low["payload"]["source"], low["payload"]["severity"]) == ("ntc_1", "acc_1", "warning")
    assert low["payload"]["custom_details"]["Balance in USD"] == "0.50"


def test_pagerdutys_bounds_hold():
    event = read(Notice("n", "trouble.began", AT, "", {"about": "a" * 999, "message": "m" * 9999}), "pagerduty", KEY)
    assert len(event["dedup_key"]) == 255
    assert len(event["payload"]["summary"]) == 1024


@pytest.mark.parametrize("type_", TYPES)
def test_every_notice_has_a_body_in_every_form(type_):
    notice = Notice("ntc_3", type_, AT, "acc_1", {})
    assert all(read(notice, format, KEY) for format in FORMATS)
    assert read(notice, "slack")["text"].startswith("*")


def test_what_others_wrote_is_no_link_and_no_mention():
    data = {"reason": "<!channel> <https://evil.example|here> & [x](https://evil.example)"}
    notice = Notice("ntc_4", "payment.failed", AT, "acc_1", data)
    assert "&lt;!channel&gt; &lt;https://evil.example|here&gt; &amp;" in read(notice, "slack")["text"]
    card = read(notice, "teams")["attachments"][0]["content"]
    assert "\\[x](" in card["body"][-1]["facts"][-1]["value"]
