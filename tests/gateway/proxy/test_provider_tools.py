"""What tools at the provider add to a hold: rounds whose input grows, calls that are granted, and what each brings."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from billing.usage import Usage
from gateway.config.defaults import EstimateSettings
from gateway.dialects.facts import Work
from gateway.proxy.candidates import Rates
from gateway.proxy.context import Terms
from gateway.proxy.estimate import NotPriced, charge, dearest, worst_case
from gateway.proxy.provider_tools import call_tokens, grown_input, most_granted, searches_with, uses_with
from tests.gateway.proxy.estimates import LOOSE, STRICT, hold_nano, price_rows, request, route, row, usages

STEP = STRICT.tool_call_tokens
OPEN = Work(open_tools=("web_search",), open_searches=1)
SEARCH_NANO = 10_000_000
SEARCHING = row(context_window=400_000, per_unit={"search": SEARCH_NANO})


@given(st.integers(0, 300), st.integers(0, 60), st.integers(1, 20), st.none() | st.integers(1, 400))
def test_the_input_of_rounds_is_their_sum(first, step, rounds, window):
    grown = [first + step * number for number in range(rounds)]
    assert grown_input(first, step, rounds, window) == sum(min(each, window or each) for each in grown)


def test_rounds_without_number_take_no_time():
    assert grown_input(100, 10, 2**31, 1000) == sum(range(100, 1000, 10)) + (2**31 - 90) * 1000


def test_what_the_request_bounds_grows_in_the_same_way():
    need = worst_case(request(work=Work(uses=2, searches=2)), route(SEARCHING), 0, STRICT)
    tokens = 100 + (100 + STEP) + (100 + 2 * STEP)
    assert (need.input_tokens, need.input_cost_nano) == (tokens, tokens * 150 + 2 * SEARCH_NANO)
    assert need.ladder == ()
    again = worst_case(request(choices=2, work=Work(uses=2, searches=2)), route(SEARCHING), 0, STRICT, 40)
    assert again.input_tokens == 2 * (tokens - 3 * 60), "what was counted takes the place of the first round's bytes"


def test_an_open_tool_has_a_ladder_up_to_the_calls_of_by_default():
    need = worst_case(request(work=OPEN), route(SEARCHING), 0, STRICT)
    assert (need.input_tokens, len(need.ladder)) == (200 + STEP, 7)
    for calls, (tokens, cost_nano) in enumerate(need.ladder, 2):
        assert tokens == 100 * (calls + 1) + STEP * calls * (calls + 1) // 2
        assert cost_nano == tokens * 150 + calls * SEARCH_NANO
    one = worst_case(request(work=OPEN), route(SEARCHING), 0, structs.replace(STRICT, default_tool_calls=1))
    assert (one.input_tokens, one.ladder) == (need.input_tokens, ())


def test_no_round_is_above_the_window_and_a_window_is_not_needed():
    small = row(context_window=1000, per_unit={"search": 0})
    need = worst_case(request(work=OPEN), route(small), 0, STRICT)
    assert (need.input_tokens, need.ladder[-1][0]) == (1100, 8100)
    unknown = row(per_unit={"search": 0})
    assert worst_case(request(work=OPEN), route(unknown), 0, STRICT).input_tokens == 200 + STEP


def test_input_outside_the_body_begins_with_the_window():
    need = worst_case(request(unbounded_input=True, work=OPEN), route(SEARCHING), 0, STRICT)
    assert (need.input_tokens, need.ladder[0][0]) == (800_000, 1_200_000)


def test_strict_tools_hold_a_window_for_each_round():
    rules = structs.replace(STRICT, strict_tools=True)
    need = worst_case(request(work=OPEN), route(SEARCHING), 0, rules, 10)
    assert (need.input_tokens, need.ladder[-1][0]) == (800_000, 9 * 400_000)
    assert worst_case(request(work=Work(uses=3, searches=0)), route(SEARCHING), 0, rules).input_tokens == 1_600_000
    assert worst_case(request(), route(SEARCHING), 0, rules).input_tokens == 100
    with pytest.raises(NotPriced, match="context window"):
        worst_case(request(work=OPEN), route(row(per_unit={"search": 0})), 0, rules)


def test_calls_are_of_all_tools_or_of_each():
    shared = Work(uses=1, open_tools=("web_search", "mcp"), open_searches=1)
    each = Work(uses=1, open_tools=("web_search", "web_search"), open_searches=2, calls_are_shared=False)
    assert [uses_with(shared, 3), uses_with(each, 3)] == [4, 7]
    assert [searches_with(shared, 3), searches_with(each, 3)] == [3, 6]
    assert [most_granted(work, 8) for work in (Work(), shared, Work(open_tools=("x",), most_calls=2))] == [0, 8, 2]
    assert most_granted(Work(open_tools=("x",), most_calls=0), 8) == 1
    need = worst_case(request(work=each), route(SEARCHING), 0, STRICT)
    tokens = sum(100 + STEP * number for number in range(4))
    assert (need.input_tokens, need.input_cost_nano) == (tokens, tokens * 150 + 2 * SEARCH_NANO)


def test_a_row_says_what_a_call_of_each_type_adds():
    of_row = {"web_search": 8192, "web_search_preview": 4096, "web_fetch": 50_000}

    def tokens(*kinds, own=0, **more):
        return call_tokens(Work(open_tools=kinds), own, {**of_row, **more}, 16_384)

    assert tokens("web_search") == tokens("web_search_20250305") == tokens(own=1) == 8192
    assert tokens("web_search_preview_2025_03_11") == 4096
    assert tokens("web_search", "web_fetch") == 50_000
    assert tokens("web_searching") == tokens("mcp") == 16_384
    assert tokens("mcp", **{"*": 7}) == 7
    assert call_tokens(Work(uses=1, bounded_tools=("web_search",)), 0, of_row, 1) == 8192
    assert call_tokens(Work(uses=1), 0, of_row, 1) == 50_000, "it may be of any type"
    assert call_tokens(Work(uses=1), 0, None, 1) == 1
    priced = replace(SEARCHING, tool_call_tokens={"web_search": 1000})
    assert worst_case(request(work=OPEN), route(priced), 0, STRICT).input_tokens == 200 + 1000


def test_estimates_have_no_ladder():
    need = worst_case(request(work=OPEN), route(SEARCHING), 0, LOOSE)
    assert (need.input_tokens, need.ladder) == (25, ())


def test_an_open_search_needs_a_price():
    with pytest.raises(NotPriced, match="no price for searches"):
        worst_case(request(work=OPEN), route(row(context_window=5000)), 0, STRICT)
    tool = Work(open_tools=("mcp",))
    assert worst_case(request(work=tool), route(row()), 0, STRICT).ladder


def test_a_ladder_ends_where_its_rungs_can_not_be_held():
    most = structs.replace(STRICT, tool_call_tokens=10**9)
    need = worst_case(request(work=OPEN), route(row(per_unit={"search": 0})), 0, most)
    assert need.input_tokens == 10**9 + 200
    assert need.ladder == ()
    dear = row({"input": 10**12, "output": 0}, per_unit={"search": 0})
    assert len(worst_case(request(work=OPEN), route(dear), 0, STRICT).ladder) == 7
    assert not worst_case(
        request(work=OPEN), route(row({"input": 4 * 10**17, "output": 0}, per_unit={"search": 0})), 0, STRICT
    ).ladder


def test_the_dearest_of_several_covers_as_many_calls_as_all_have():
    dear = row({"input": 10**9, "output": 10**9}, context_window=400_000, per_unit={"search": 1})
    need = dearest(request(work=OPEN), [route(SEARCHING), route(dear)], 0, STRICT)
    cheap, costly = (worst_case(request(work=OPEN), route(each), 0, STRICT) for each in (SEARCHING, dear))
    assert need.ladder == tuple(
        (max(a, b), max(c, d)) for (a, c), (b, d) in zip(cheap.ladder, costly.ladder, strict=True)
    )
    routed = replace(route(SEARCHING), answered_by=("dear",), others={"dear": Rates.of(dear)})
    fees = worst_case(request(work=OPEN), routed, 0, STRICT)
    assert fees.ladder[0] == (costly.ladder[0][0], costly.ladder[0][1] + 150 * costly.ladder[0][0])


works = st.builds(
    lambda uses, tools, searching, shared: Work(
        uses=uses, open_tools=("web_search",) * tools, open_searches=min(searching, tools), calls_are_shared=shared
    ),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(0, 3),
    st.booleans(),
)


@given(price_rows(), works, st.integers(1, 3), st.integers(1, 300), st.integers(0, 300), st.data())
def test_no_provider_that_uses_all_that_was_granted_costs_more_than_the_hold(price, work, choices, body, step, data):
    """Whichever rung is granted: each round reads what all calls before it have brought, up to the window."""
    price = replace(price, per_unit={**price.per_unit, "search": 10**6})
    rules = EstimateSettings(default_tool_calls=4, tool_call_tokens=step)
    asked = request(work=work, choices=choices, input_bound_tokens=body, max_output_tokens=50)
    need = worst_case(asked, route(price), 0, rules)
    calls = data.draw(st.integers(1, 1 + len(need.ladder)))
    uses = uses_with(work, calls)
    reads = [min(body + step * number, price.context_window or 10**9) for number in range(uses + 1)]
    granted = need.with_calls(calls)
    assert granted.input_tokens >= sum(reads) * choices
    used = data.draw(usages(sum(reads) * choices, granted.most_output * choices))
    searched = replace_usage(used, searches_with(work, calls) * choices)
    tier = data.draw(st.sampled_from([None, "batch", "flex"]))
    assert charge(searched, route(price), 0, tier).charged_nano <= hold_nano(granted, granted.most_output)


def replace_usage(usage: Usage, searches: int) -> Usage:
    counts = {name: getattr(usage, name) for name in usage.__struct_fields__}
    return Usage(**{**counts, "searches": searches})


def test_the_most_specific_number_of_calls_wins():
    def granted(key, plan, entry):
        of_plan = SimpleNamespace(markup_of=lambda _: 0, default_tool_calls=plan)
        principal = SimpleNamespace(tags={}, plan=of_plan, default_tool_calls=key)
        candidate = replace(route(SEARCHING), default_tool_calls=entry)
        return Terms(principal, SimpleNamespace(), candidate, STRICT).rules.default_tool_calls  # type: ignore[arg-type]

    assert [granted(1, 2, 3), granted(None, 2, 3), granted(None, None, 3), granted(None, None, None)] == [1, 2, 3, 8]
    assert STRICT.granting(None) is STRICT
