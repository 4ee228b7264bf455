"""The properties that are sent of an event, and the meaning of the other side's answers."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.exports.events import ExportEvent, cents, flat_properties, unix_s
from billing.exports.lago import LagoMeter, LagoRules, lago_events, lago_verdict
from billing.exports.meters import StripeMeter, identifier_prefix, parse_identifier
from billing.exports.sinks import TAKEN, Reply, Verdict, deliver, retry_after_s
from billing.exports.worker import ExportRules

NOW = datetime(2026, 11, 23, 14, 59, 59, 999_500, UTC)
EVENT = ExportEvent(
    **{
        **dict.fromkeys(ExportEvent.__struct_fields__),
        **{"wseq": 7, "request_id": "01R", "admitted_at": NOW, "created_at": NOW, "account_id": "acc_1", "key_id": "k"},
        **{
            "endpoint": "/v1/x",
            "feature": "llm",
            "model": "m",
            "provider": "p",
            "provider_model": "pm",
            "price_id": "x",
        },
        **{"input_tokens": 10, "cached_input_tokens": 4, "cache_write_tokens": 0, "output_tokens": 5},
        **{"reasoning_tokens": 2, "cost_nano": 1, "charged_nano": 12_345_678, "estimated": True, "status": 200},
        **{"stream": False, "counts": {"searches": 2, "named": {"pages": 3}, "unit_thousandths": "x"}},
        "tags": {"team": "blue"},
    }
)


@given(st.integers(0, 2**53 - 1))
def test_cents_are_exact(nano):
    assert Decimal(cents(nano)) * 10**7 == nano
    assert "e" not in cents(nano).lower()


def test_an_event_is_told_under_each_code_that_counts_it_and_charged_once():
    meters = (LagoMeter("images", "requests", "image"), LagoMeter("tokens", "total_tokens"), LagoMeter("all"))
    first, second = lago_events(EVENT, meters)
    assert (first["transaction_id"], second["transaction_id"]) == ("01R:1", "01R:2")
    assert (first["precise_total_amount_cents"], second["precise_total_amount_cents"]) == ("1.2345678", "0")
    assert first["properties"]["value"] == 15
    assert first["timestamp"] == unix_s(NOW) == "1795445999.999"
    flat = flat_properties(EVENT)
    assert (flat["tag_team"], flat["unit_searches"], flat["unit_pages"], flat["estimated"]) == ("blue", 2, 3, "true")
    assert "user_id" not in flat
    assert "unit_unit_thousandths" not in flat
    assert all(isinstance(value, str | int) and not isinstance(value, bool) for value in flat.values())


@pytest.mark.parametrize(
    ("status", "answer", "meant"),
    [
        (200, {}, TAKEN),
        (422, {"error_details": {"1": {"transaction_id": ["value_already_exist"]}}}, {1: None}),
        (
            422,
            {"error_details": {"0": {"timestamp": ["invalid_format"]}}},
            {0: 'refused: {"timestamp":["invalid_format"]}'},
        ),
        (422, {"error_details": {"events": ["too_many_events"]}}, None),
        (400, "nothing like it", None),
        (422, msgspec.Raw(b"[" * 2_000), None),
    ],
)
def test_what_lago_answers(status, answer, meant):
    verdict = lago_verdict(Reply(status, msgspec.json.encode(answer)))
    if isinstance(meant, Verdict):
        assert verdict is meant
    else:
        assert (verdict.kind, verdict.refused) == (("one of them", {}) if meant is None else ("some", meant))


@given(poison=st.sets(st.integers(0, 40)), count=st.integers(1, 40), named=st.booleans())
async def test_all_but_what_is_refused_is_delivered_once(poison, count, named):
    taken = []
    requests = 0

    async def post(items):
        nonlocal requests
        requests += 1
        wrong = {at: "bad" for at, item in enumerate(items) if item in poison}
        if not wrong:
            taken.extend(items)
            return TAKEN
        return Verdict("some", "", wrong) if named else Verdict("one of them", "bad")

    refused = await deliver(range(count), post)
    assert set(refused) == poison & set(range(count))
    assert sorted(taken) == sorted(set(range(count)) - poison)
    assert requests <= (2 if named else 1 + 14 * len(refused))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("99999", 3600), ("Mon, 23 Nov 2026 15:00:09 GMT", 9.0005), ("yesterday", 0), ("", 0), ("-1", 0)],
)
def test_how_long_another_side_asks_to_wait(header, seconds):
    assert retry_after_s(header, NOW) == pytest.approx(seconds)


def test_pauses_double_within_bounds_and_are_at_least_what_was_asked_for():
    rules = ExportRules()
    assert [rules.pause(failures, 0) for failures in (0, 1, 2, 9, 99)] == [1, 2, 4, 300, 300]
    assert rules.pause(0, 77) == 77


def test_identifiers_are_read_as_they_are_written():
    hour = datetime(2026, 11, 23, 14, tzinfo=UTC)
    key = f"{identifier_prefix('acc_1', 'tokens', hour + timedelta(minutes=3))}2:01H"
    assert parse_identifier(key) == ("acc_1", "tokens", hour, 2)
    ours = f"{identifier_prefix('acc_1', 'tokens', hour)}"
    for foreign in (
        "of somebody else",
        f"{ours}-1",
        f"{ours}2x",
        f"{ours}{2**31 - 1}",
        f"\0{ours}2",
        "acc_1:m:2026112324:0",
    ):
        assert parse_identifier(foreign) is None
    assert EVENT.hour == hour


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: StripeMeter("a:b", "requests"),
        lambda: StripeMeter("a", "smiles"),
        lambda: LagoRules("https://lago/"),
        lambda: LagoRules("https://lago", meters=()),
        lambda: ExportRules(pause_s=2, most_pause_s=1),
    ],
)
def test_what_is_wrong_is_refused_on_construction(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        wrong()
