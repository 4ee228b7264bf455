"""What is kept for a key on a model says what would be worked out anew, and no longer than it is true."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.holds.model import Need, NeedTooLarge
from billing.money import MAX_NANO, format_usd
from billing.plans import Plan
from billing.pricing import FACTOR_SCALE
from billing.principals import MAX_KEPT, Principal
from gateway.config.defaults import EstimateSettings
from gateway.dialects.facts import NO_PARTS, NO_WORK, ParsedRequest, Parts, Work
from gateway.dialects.openai.dialect import CHAT, MAX_FIELDS, OpenAIDialect, max_field, parse
from gateway.dialects.openai.vendors import MaxOutputField
from gateway.proxy.candidates import Candidate, Route
from gateway.proxy.context import Facts, Terms, keep_facts
from gateway.proxy.estimate import NotPriced, Plain, markup_of, worst_case
from gateway.proxy.provider_request import provider_body
from gateway.server.ids import MINUTE_MS, duration, paid_lines, usd
from tests.billing.holds.test_cache import PRINCIPAL
from tests.gateway.proxy.estimates import priced, request

RULES = [EstimateSettings(), EstimateSettings(strict=False)]


def need_of(
    parsed: ParsedRequest, route: Candidate, markup: int, rules: EstimateSettings, counted: int | None
) -> Need | str:
    try:
        return worst_case(parsed, route, markup, rules, counted)
    except (NotPriced, NeedTooLarge) as error:
        return type(error).__name__


@given(
    st.integers(1, 10**7) | st.integers(1, 2**54),
    st.none() | st.integers(0, 10**6) | st.integers(0, 2**33),
    st.integers(1, 128),
    st.none() | st.integers(0, 10**6),
    st.none() | st.integers(1, 200_000),
    st.sampled_from([0, 20 * FACTOR_SCALE, 7]),
    st.sampled_from(RULES),
    st.sampled_from([None, "priority", "flex"]),
    st.sampled_from([{}, {"parts": Parts(images=1)}, {"work": Work(audio=True)}, {"unbounded_input": True}]),
    st.sampled_from([{"input": 3, "output": 7}, {"input": 5}, {"input": 150_000_000, "output": 600_000_000}]),
    st.sampled_from(
        [{}, {"online_searches": 5}, {"searches_itself": True}, {"markup_scaled": 3}, {"own_max_output": 9}]
    ),
)
def test_a_plain_need_is_the_worst_case(
    size,
    most,
    choices,
    counted,
    window,
    markup,
    rules,
    tier,
    beside,
    per_million,
    way,
):
    route = replace(priced(per_million=per_million, context_window=window), **way)
    parsed = request(input_bound_tokens=size, max_output_tokens=most, choices=choices, service_tier=tier, **beside)
    plain = Plain.of(route, markup_of(route, markup), rules)
    try:
        found = plain.need(parsed, counted) if plain is not None else None
    except NeedTooLarge:
        assert need_of(parsed, route, markup, rules, counted) == "NeedTooLarge"
        return
    if found is not None:
        assert found == need_of(parsed, route, markup, rules, counted)


def test_most_requests_are_plain():
    plain = Plain.of(priced(), 0, RULES[0])
    assert plain is not None
    assert plain.need(request(max_output_tokens=10)) is not None
    elastic = plain.need(request())
    assert elastic is not None
    assert (elastic.least_output, elastic.most_output) == (RULES[0].min_output_tokens, 1000)
    assert elastic == worst_case(request(), priced(), 0, RULES[0])
    assert request().parts is NO_PARTS
    assert request().work is NO_WORK


@given(
    st.dictionaries(st.sampled_from(MAX_FIELDS), st.integers(1, 9000), max_size=3),
    st.sampled_from(get_args(MaxOutputField)),
    st.none() | st.integers(1, 9000),
    st.booleans(),
    st.sampled_from(["m", "another"]),
)
def test_what_passes_as_it_is_is_not_changed(maxima, field, window, stream, model):
    fields = "".join(f',"{name}":{most}' for name, most in maxima.items())
    body = f'{{"model":"m","messages":[],"stream":{str(stream).lower()}{fields}}}'.encode()
    dialect, route = OpenAIDialect(), priced(field, context_window=window, model=model)
    parsed, terms = parse(CHAT, body), Terms(PRINCIPAL, Route("m", (route,)), route, RULES[0])
    if terms.passes_as_it_is(parsed, route, max_field(field, CHAT)):
        assert provider_body(dialect, parsed, route, body, None, max_field(field, CHAT), strict=True) is body
    assert not terms.passes_as_it_is(parsed, priced(field), max_field(field, CHAT))


def terms_of(principal: Principal, candidate: Candidate) -> tuple[Route, Terms]:
    route = Route(candidate.entry, (candidate,))
    return route, Terms(principal, route, candidate, RULES[0])


def test_what_is_kept_is_bounded():
    principal = anew()
    for number in range(3 * MAX_KEPT):
        keep_facts(principal, ("openai", "chat", f"m{number}"), Facts(terms_of(principal, priced())[0], ()))
        assert len(principal.kept) <= MAX_KEPT


def anew() -> Principal:
    """The same principal, read from Postgres once more."""
    return replace(PRINCIPAL, plan=Plan("free", "Free", 0), kept={})


class Held:
    """As much of a hold as its lines are made of."""

    id_bytes = b"01J"

    def __init__(
        self, minute: list[tuple[str, int]], used: list[int], admitted_at_ms: int, granted: int | None = None
    ) -> None:
        self.target = self.limits = self.need = self
        self.minute = tuple(minute)
        self.minute_used = used
        self.admitted_at_ms = admitted_at_ms
        self.most_output = 1 << 31
        self.granted_output = self.most_output if granted is None else granted


WINDOWS = st.lists(
    st.tuples(st.sampled_from(["requests", "tokens", "cost"]), st.integers(1, 50), st.integers(0, 60)), max_size=5
)


@given(
    WINDOWS,
    st.integers(0, 10**13),
    st.none() | st.integers(0, 10**6),
    st.none() | st.integers(0, MAX_NANO),
    st.sampled_from([None, "request-id"]),
)
def test_own_lines_say_which_request_it_was_its_charge_and_its_tightest_windows(
    windows,
    at_ms,
    granted,
    charged_nano,
    id_header,
):
    minute, used = [(name, limit) for name, limit, _ in windows], [used for _, _, used in windows]
    held = Held(minute, used, at_ms, granted)
    lines = ["x-request-id: 01J"]
    if charged_nano is not None:
        charge_usd = format_usd(charged_nano)
        lines += [f"x-metergate-charge-usd: {charge_usd}", f"x-metergate-cost-usd: {charge_usd}"]
    if id_header is not None:
        lines.append(f"{id_header}: 01J")
    if granted is not None:
        lines.append(f"x-metergate-granted-output-tokens: {granted}")
    for name in dict.fromkeys(name for name, _, _ in windows if name != "cost"):
        left, limit = min(((limit - used, limit) for other, limit, used in windows if other == name), key=first)
        lines += [f"x-ratelimit-limit-{name}: {limit}", f"x-ratelimit-remaining-{name}: {max(0, left)}"]
        lines.append(f"x-ratelimit-reset-{name}: {duration(MINUTE_MS - at_ms % MINUTE_MS).decode()}")
    assert paid_lines(held, charged_nano, id_header).decode() == "\r\n".join((*lines, ""))


@given(st.integers(-MAX_NANO, MAX_NANO) | st.integers(-(10**6), 10**6).map(lambda cents: cents * 10**7))
def test_an_amount_in_a_line_is_shown_as_amounts_are(nano):
    assert usd(nano).decode() == format_usd(nano)


def first(pair: tuple[int, int]) -> int:
    """What is left; of equals the first counts."""
    return pair[0]


@pytest.mark.parametrize("milliseconds", [1000, 1001, 1010, 1100, 12_345, 59_000, 59_999, 60_000, 60_001, 119_999])
def test_durations_show_every_digit(milliseconds):
    minutes, _, rest = duration(milliseconds).decode().rpartition("m")
    seconds, _, fraction = rest.removesuffix("s").partition(".")
    assert int(minutes or 0) * 60_000 + int(seconds) * 1000 + int(fraction.ljust(3, "0")) == milliseconds
