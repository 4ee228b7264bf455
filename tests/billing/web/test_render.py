"""What amounts look like."""

from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from markupsafe import Markup

from billing.amounts import digits, short_count, usd_text
from billing.web.render import brief, changes, marked, money, used_part


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (-1_500, "$-0.000002"),
        (12_345_678_901, "$12.35"),
        (999_999_999, "$1.00"),
        (450_000, "$0.000450"),
        (500_000_000, "$0.50"),
        (233_287_000, "$0.2333"),
        (9_871_400, "$0.009871"),
        (1_234_567_000_000_000, "$1,234,567.00"),
    ],
)
def test_an_amount_is_rounded_for_reading_and_never_to_nothing(nano, text):
    assert usd_text(nano) == (text if nano >= 0 else text.replace("$-", "-$"))


def test_amounts_of_one_column_have_as_many_digits():
    amounts = ["25.00", "-0.03765", "0.5", None]
    assert [str(money(each, digits(amounts)).striptags()) for each in amounts] == [
        "$25.0000",
        "-$0.0377",
        "$0.5000",
        "–",
    ]
    assert [usd_text(nano, digits([10**9, 0])) for nano in (10**9, 0)] == ["$1.00", "$0.00"]
    assert (digits([1]), usd_text(1, digits([1]))) == (6, "$0.000000001")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9_999, "9,999"), (12_345, "12.3k"), (2_000_000, "2M"), (31_529_000, "31.5M"), (10**12, "1,000B")],
)
def test_a_large_number_is_short_where_there_is_little_room(number, text):
    assert short_count(number) == text


def test_a_message_of_the_api_has_links_and_times_as_pages_have_them():
    said = "<b> resets at 2026-11-25T23:30:00Z. Buy at https://a.example/pay?a=1&b=2. (`metergate setup` opens it)"
    shown = marked(said, ZoneInfo("Europe/Berlin"), ["https://a.example"])
    link = "https://a.example/pay?a=1&amp;b=2"
    assert f'<a href="{link}">{link}</a>. (<code class="said">metergate setup</code> opens it)' in shown
    assert shown.striptags() == (
        "<b> resets at 2026-11-26 00:30:00. Buy at https://a.example/pay?a=1&b=2. (metergate setup opens it)"
    )
    harmless = marked("javascript:alert(1) `<i>`", ZoneInfo("UTC"), ["https://a.example"])
    assert harmless == 'javascript:alert(1) <code class="said">&lt;i&gt;</code>'


@pytest.mark.parametrize(
    "text", ["2026-99-99T99:99:99Z", "2026-02-30T00:00:00Z", "0000-01-01T00:00:00Z", "٢٠٢٦-01-01T00:00:00Z"]
)
def test_a_message_that_quotes_no_time_is_shown_as_it_is(text):
    assert marked(f"<x`{text}", ZoneInfo("Europe/Berlin"), []) == f"&lt;x`{text}"


@pytest.mark.parametrize(
    ("url", "is_linked"),
    [
        ("https://a.example", True),
        ("https://a.example/console/keys", True),
        ("https://a.example?a=1", True),
        ("https://b.example/pay/plans/pro", True),
        ("https://b.example/payment", False),
        ("https://a.example.evil/console", False),
        ("https://a.example@evil.example/", False),
        ("https://a.example:8443/", False),
        ("http://a.example/", False),
        ("https://evil.example/https://a.example/", False),
    ],
)
def test_only_the_gateways_own_addresses_are_links(url, is_linked):
    shown = marked(f"see {url}: now", ZoneInfo("UTC"), ["https://a.example", "https://b.example/pay"])
    assert shown == (f'see <a href="{url}">{url}</a>: now' if is_linked else f"see {url}: now")


def test_a_message_that_quotes_the_ends_of_the_calendar_is_shown():
    for text in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
            assert "<time" in marked(text, ZoneInfo(zone), [])


@pytest.mark.parametrize(
    ("used", "limit", "percent"), [(0, 60, 0), (59, 60, 98), (90, 60, 100), (1, 0, None), ("2.50", "10.00", 25)]
)
def test_how_much_of_a_quota_is_used(used, limit, percent):
    assert used_part(SimpleNamespace(used=used, limit=limit)) == percent


def test_only_long_words_are_broken():
    assert all(map(brief, ("", "purchase of 2026-11-23 17:02:26", Markup('<data title="0.000000000000001">1</data>'))))
    assert not brief("order ord_01M84NQKKGYD4BYXR9GNVHYGS7")


def test_a_change_is_told_by_the_fields_that_differ():
    before = {"plan": "free", "status": "active", "operator": False, "quotas": []}
    after = {"plan": "pro", "status": "active", "operator": True, "quotas": [{"limit": 1}], "past_due_at": "now"}
    assert changes(before, after) == [
        ("plan", "free", "pro"),
        ("operator", "no", "yes"),
        ("quotas", "[]", '[{"limit":1}]'),
        ("past due at", "", "now"),
    ]
    assert changes(None, {"name": "Acme"}) == [("name", "", "Acme")]
    assert changes({"name": "Acme"}, None) == [("name", "Acme", "")]
