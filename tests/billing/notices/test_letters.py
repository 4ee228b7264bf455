"""Mails of notices: what they say of the data."""

from billing.notices.mail_templates import letter_of


def test_an_exhausted_quota_is_called_what_it_is():
    quota = {
        subject: (letter_of("Metergate", "quota.exhausted", {"subject": subject}) or ("", ""))[1]
        for subject in ("plan", "key", "user", "account")
    }
    assert "your plan" in quota["plan"]
    assert "one of your API keys" in quota["key"]
    assert "member" in quota["user"]
    assert "your account" in quota["account"]


def test_a_refund_says_how_much_of_the_payment_came_back():
    data = {"order_id": "ord_1", "kind": "credit", "amount_usd": "20.00", "refunded_usd": "3.00"}
    letter = letter_of("Metergate", "payment.refunded", data)
    assert "Amount in USD: 20.00\nRefunded in USD: 3.00\n" in letter[1]
