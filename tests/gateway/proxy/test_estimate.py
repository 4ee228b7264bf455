"""The hold is a true upper bound: whatever a request can come to within its bounds costs no more."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from billing.holds.model import NeedTooLarge
from billing.ledger.debits import decode_shares
from billing.pricing import FACTOR_SCALE, Tier, Variant
from billing.usage import MAX_COUNT, Usage, text_usage
from gateway.dialects.facts import Parts, Work
from gateway.proxy.candidates import Rates
from gateway.proxy.estimate import NotPriced, Plain, billed_usage, charge, markup_of, worst_case
from tests.gateway.proxy.estimates import LOOSE, STRICT, request, route, row

pytestmark = pytest.mark.slow


def test_an_elastic_hold_reaches_from_the_least_to_the_model_s_own():
    need = worst_case(request(choices=3), route(row()), 0, STRICT)
    assert (need.least_output, need.most_output, need.choices) == (16, 1000, 3)
    assert (need.input_tokens, need.input_cost_nano, need.unit_nano) == (300, 300 * 150, 3 * 600)
    small = worst_case(request(), route(row(max_output_tokens=7)), 0, STRICT)
    assert (small.least_output, small.most_output) == (7, 7)


def test_the_client_s_own_maximum_is_taken_whole_up_to_the_window():
    need = worst_case(request(max_output_tokens=2000), route(row()), 0, STRICT)
    assert (need.least_output, need.most_output) == (2000, 2000)
    need = worst_case(request(max_output_tokens=2000), route(row(context_window=1500)), 0, STRICT)
    assert (need.least_output, need.most_output) == (1500, 1500)
    assert worst_case(request(max_output_tokens=0), route(row()), 0, STRICT).most_output == 0


def test_the_route_s_maximum_goes_before_the_row_s_and_the_window_comes_last():
    assert worst_case(request(), route(row(), own_max_output=50), 0, STRICT).most_output == 50
    assert worst_case(request(), route(row(context_window=70)), 0, STRICT).most_output == 1000
    windowed = row(max_output_tokens=None, context_window=70)
    assert worst_case(request(), route(windowed), 0, STRICT).most_output == 70


def test_input_counts_at_the_dearest_class_tier_and_multiplier():
    price = row(
        {"input": 10**6, "cache_write": 3 * 10**6, "output": 10**6, "audio_output": 5 * 10**6},
        tiers=(Tier(10, {"cache_write": 4 * 10**6, "output": 2 * 10**6}),),
        multipliers={"priority": 2 * FACTOR_SCALE},
    )
    need = worst_case(request(input_bound_tokens=11), route(price), 100 * FACTOR_SCALE, STRICT)
    assert need.input_cost_nano == 11 * 4 * 2 * 2
    assert need.unit_nano == 5 * 2 * 2


def test_a_tier_counts_where_the_input_may_reach_it():
    halved = {"input": 500_000, "output": 10**6}
    price = row(
        {"input": 10**6, "output": 2 * 10**6},
        tiers=(Tier(100, {"input": 3 * 10**6, "output": 7 * 10**6}),),
        variants=(Variant({"service_tier": "flex"}, halved, tiers=(Tier(90, {"output": 8 * 10**6}),)),),
    )
    for tokens, choices, rates in ((90, 1, (1, 2)), (45, 2, (1, 2)), (91, 1, (3, 7)), (31, 3, (3, 7))):
        asked = request(input_bound_tokens=tokens, choices=choices)
        need = worst_case(asked, route(price), 0, STRICT)
        assert (need.input_cost_nano, need.unit_nano) == (tokens * choices * rates[0], choices * rates[1])
        plain = Plain.of(route(price), 0, STRICT)
        assert plain is not None
        assert plain.need(asked) == need
    predicted = worst_case(request(input_bound_tokens=90, work=Work(predicted=1)), route(price), 0, STRICT)
    assert predicted.unit_nano == 7


def test_the_price_of_a_request_counts_at_its_dearest_too():
    price = row({"input": 0, "output": 0}, per_unit={"request": 1000}, multipliers={"priority": 2 * FACTOR_SCALE})
    need = worst_case(request(), route(price), 0, STRICT)
    assert need.input_cost_nano == charge(Usage(), route(price), 0, "priority").charged_nano == 2000


@pytest.mark.parametrize("units", [{"hour": 10**9}, {"second": 10**6}, {"page": 10**6}, {"character": 0}])
def test_a_row_that_says_nothing_of_tokens_makes_none_free(units):
    """Such as a model that is priced by the hour of sound, and asked for a chat."""
    price = route(row({}, per_unit=units))
    for has_output in (True, False):
        with pytest.raises(NotPriced, match="no price for input"):
            worst_case(request(has_output=has_output, max_output_tokens=5), price, 0, STRICT)
    with pytest.raises(NotPriced, match="no price for output"):
        worst_case(request(), route(row({"input": 1})), 0, STRICT)
    by_request = row({}, per_unit={**units, "request": 7})
    assert worst_case(request(), route(by_request), 0, STRICT).input_cost_nano == 7


def test_a_batch_of_embeddings_is_not_bounded_by_the_window_of_one():
    price = row({"input": 10**6}, max_output_tokens=None, context_window=50)
    batch = request(operation="/v1/embeddings", has_output=False, input_bound_tokens=4000)
    for unbounded in (False, True):
        parsed = msgspec.structs.replace(batch, unbounded_input=unbounded)
        need = worst_case(parsed, route(price), 0, STRICT)
        assert (need.input_tokens, need.unit_nano, need.most_output) == (4000, 0, 0)


def test_input_outside_the_body_is_bounded_by_the_window_alone():
    windowed = row(context_window=5000)
    assert worst_case(request(unbounded_input=True), route(windowed), 0, STRICT).input_tokens == 5000
    with pytest.raises(NotPriced, match="context window"):
        worst_case(request(unbounded_input=True), route(row()), 0, STRICT)


def test_each_use_of_a_tool_may_call_the_model_with_its_whole_window_again():
    price = row(context_window=5000, per_unit={"search": 10**7, "request": 10**6})
    parsed = request(unbounded_input=True, choices=2, work=Work(True, uses=3, searches=2))
    need = worst_case(parsed, route(price), 0, STRICT, 10)  # what was counted in the body bounds nothing here
    assert need.input_tokens == 2 * 4 * 5000
    assert need.input_cost_nano == 2 * 4 * 5000 * 150 + 10**6 + 2 * 2 * 10**7
    with pytest.raises(NotPriced, match="context window"):
        worst_case(parsed, route(row(per_unit={"search": 1})), 0, STRICT)


def test_a_further_call_needs_bounds_and_a_faster_speed_its_price():
    with pytest.raises(NotPriced, match="context window"):
        worst_case(request(max_output_tokens=5, work=Work(calls=1)), route(row()), 0, STRICT)
    asking = request(max_output_tokens=5, work=Work(fast=True))
    with pytest.raises(NotPriced, match="speed"):
        worst_case(asking, route(row()), 0, STRICT)
    fast = row(variants=(Variant({"speed": "fast"}, {"output": 6_000_000_000}),))
    plain = worst_case(request(max_output_tokens=5), route(fast), 0, STRICT)
    assert worst_case(asking, route(fast), 0, STRICT).unit_nano == 10 * plain.unit_nano


def test_searches_and_sound_need_a_price():
    windowed = row(context_window=5000)
    for asked, what in ((Work(True, 1, 1), "searches"), (Work(audio=True), "audio output")):
        with pytest.raises(NotPriced, match=f"no price for {what}"):
            worst_case(request(work=asked), route(windowed), 0, STRICT)
    worst_case(request(work=Work(True, 1, 1)), route(row(context_window=5000, per_unit={"search": 0})), 0, STRICT)
    spoken = row({"input": 1, "output": 1, "audio_output": 7 * 10**6})
    assert worst_case(request(work=Work(audio=True)), route(spoken), 0, STRICT).unit_nano == 7


def test_what_is_predicted_is_held_as_output_beside_the_answer():
    plain = worst_case(request(choices=2, max_output_tokens=10), route(row()), 0, STRICT)
    need = worst_case(request(choices=2, max_output_tokens=10, work=Work(predicted=30)), route(row()), 0, STRICT)
    assert need.input_tokens == plain.input_tokens + 60
    assert need.input_cost_nano == plain.input_cost_nano + 30 * plain.unit_nano
    assert (need.unit_nano, need.most_output) == (plain.unit_nano, plain.most_output)


def test_a_rerank_is_held_in_the_unit_of_its_price():
    asked = request(has_output=False, work=Work(search_units=3))
    by_search = row({}, per_unit={"search": 2_000_000})
    assert worst_case(asked, route(by_search), 0, STRICT).input_cost_nano == 6_000_000
    assert worst_case(asked, route(row()), 0, STRICT).input_cost_nano == 100 * 150
    with pytest.raises(NotPriced, match="for a search or for input"):
        worst_case(asked, route(row({}, per_unit={"image": 1})), 0, STRICT)
    assert billed_usage(Usage(input_tokens=9), asked, route(by_search)).searches == 1
    assert billed_usage(Usage(searches=2), asked, route(by_search)).searches == 2
    assert billed_usage(Usage(input_tokens=9), asked, route(row())).searches == 0


def test_a_search_that_is_billed_and_not_reported_is_counted_once():
    asked, way = request(work=Work(True, 1, 1, one_search=True)), route(row())
    assert billed_usage(Usage(input_tokens=1), asked, way).searches == 1
    assert billed_usage(Usage(input_tokens=1, searches=2), asked, way).searches == 2
    assert billed_usage(Usage(input_tokens=1), request(), way).searches == 0
    assert billed_usage(Usage(input_tokens=1), request(), replace(way, searches_itself=True)).searches == 1


def test_the_dearest_of_the_models_that_may_answer_is_held_and_the_one_that_served_is_charged():
    cheap = row({"input": 10**6, "output": 5 * 10**6}, max_output_tokens=100, context_window=900)
    dear = row({"input": 3 * 10**6, "output": 4 * 10**6}, max_output_tokens=500, context_window=2000)
    way = replace(
        route(cheap), others={"dear": Rates.of(dear), "dear-mini": Rates.of(row({"input": 2 * 10**6, "output": 0}))}
    )
    need = worst_case(request(input_bound_tokens=1500), way, 0, STRICT)
    assert (need.input_tokens, need.input_cost_nano, need.unit_nano, need.most_output) == (1500, 4500, 5, 1000)
    used = Usage(input_tokens=10)
    for served, price in (("m", 10), ("m-2024-05-13", 10), ("dear", 30), ("dear-mini-2024", 20), (None, 10), ("x", 10)):
        charged = charge(used, way, 0, None, served)
        assert charged.cost_nano == price, served
    assert charge(used, way, 0, None, "dear").price_id == dear.id
    forgetful = replace(way, others={"dear": Rates.of(row({"input": 1}))})
    with pytest.raises(NotPriced, match="`dear`"):
        worst_case(request(), forgetful, 0, STRICT)


def test_a_name_that_asks_for_search_results_is_held_for_them():
    price = row(context_window=5000, per_unit={"search": 10**6})
    way = replace(route(price), online_searches=5)
    need = worst_case(request(), way, 0, STRICT, 10)
    assert (need.input_tokens, need.input_cost_nano) == (10 + 5 * 5000, (10 + 5 * 5000) * 150 + 5 * 10**6)
    with pytest.raises(NotPriced, match="searches"):
        worst_case(request(), replace(route(row(context_window=5000)), online_searches=5), 0, STRICT)


def test_tokens_that_were_counted_take_the_place_of_bytes():
    need = worst_case(request(choices=2), route(row()), 0, STRICT, 40)
    assert (need.input_tokens, need.input_cost_nano) == (80, 80 * 150)
    assert worst_case(request(), route(row()), 0, STRICT, 400).input_tokens == 100


def test_images_count_by_the_row_s_bound():
    parts = Parts(images=2, inline_bytes=80)
    with_bound = row(part_tokens={"image": 1000})
    assert worst_case(request(parts=parts), route(with_bound), 0, STRICT).input_tokens == 20 + 2000
    assert worst_case(request(parts=parts), route(row(context_window=9000)), 0, STRICT).input_tokens == 9000


def test_what_has_no_price_is_refused():
    for price, parsed in (
        (None, request()),
        (row({"input": 1}), request()),
        (row(max_output_tokens=None), request()),
        (row(), request(service_tier="priority")),
    ):
        with pytest.raises(NotPriced) as refused:
            worst_case(parsed, route(price), 0, STRICT)
        assert "`m`" in str(refused.value)
    with pytest.raises(NotPriced):
        charge(Usage(), route(None), 0, None)
    assert worst_case(request(max_output_tokens=9), route(row(max_output_tokens=None)), 0, STRICT).most_output == 9


def test_counts_that_no_usage_can_have_are_too_large():
    for parsed in (
        request(choices=2, max_output_tokens=MAX_COUNT),
        request(choices=MAX_COUNT // 50),
        request(choices=MAX_COUNT // 900, input_bound_tokens=1),
    ):
        with pytest.raises(NeedTooLarge):
            worst_case(parsed, route(row()), 0, STRICT)
    dear = row({"input": 10**15, "output": 10**15})
    with pytest.raises(NeedTooLarge):
        worst_case(request(input_bound_tokens=10**7), route(dear), 0, STRICT)


def test_without_strict_the_hold_is_an_estimate():
    need = worst_case(request(input_bound_tokens=101), route(row()), 0, LOOSE)
    assert (need.input_tokens, need.least_output, need.most_output) == (26, 512, 512)
    assert worst_case(request(max_output_tokens=20), route(row()), 0, LOOSE).most_output == 20
    assert worst_case(request(), route(row(max_output_tokens=30)), 0, LOOSE).most_output == 30
    assert worst_case(request(unbounded_input=True), route(row(context_window=9000)), 0, LOOSE).input_tokens == 25


def test_a_model_s_markup_goes_before_its_plan_s():
    assert markup_of(route(row(), markup_scaled=7), 9) == 7
    assert markup_of(route(row()), 9) == 9


def test_a_tier_that_the_row_does_not_price_is_charged_plainly():
    usage, way = Usage(input_tokens=10), route(row(multipliers={"flex": FACTOR_SCALE // 2}))
    assert charge(usage, way, 0, "flex").cost_nano == 750
    assert charge(usage, way, 0, "flex").multiplier == "flex"
    for tier in (None, "default", "scale", "batch"):
        plain = charge(usage, way, 0, tier)
        assert (plain.cost_nano, plain.multiplier) == (1500, None)


def test_a_router_holds_the_dearest_model_and_its_fee_and_is_charged_the_one_that_answered():
    fee, cheap = row({"input": 10**6}, max_output_tokens=None), row({"input": 10**6, "output": 10**6})
    dear = row({"input": 3 * 10**6, "output": 4 * 10**6}, max_output_tokens=500, context_window=2000)
    way = replace(route(fee), answered_by=("a", "b"), others={"a": Rates.of(cheap), "b": Rates.of(dear)})
    need = worst_case(request(), way, 0, STRICT)
    assert (need.input_cost_nano, need.unit_nano, need.most_output) == (need.input_tokens * 4, 4, 1000)
    assert (way.max_output_tokens, way.context_window) == (1000, None)
    used = Usage(input_tokens=10, output_tokens=1)
    for served, price_nano in (("a-2026", 10 + 1 + 10), ("b", 30 + 4 + 10), ("m", 44), (None, 44)):
        charged = charge(used, way, 0, None, served)
        shares = decode_shares(charged.by_model)
        assert charged.cost_nano == price_nano, served
        assert [(each.model, each.price_id) for each in shares][1] == ("m", fee.id)
        assert charged.price_id == shares[0].price_id == (cheap if served == "a-2026" else dear).id
    assert decode_shares(charge(used, way, 0, None, "a").by_model)[0].model == "a"


RATES = st.integers(0, 10**9)


@given(
    st.fixed_dictionaries({"input": RATES}, optional=dict.fromkeys(("cached_input", "output", "reasoning"), RATES)),
    st.sampled_from([{}, {"request": 7}]),
    st.lists(st.integers(0, 10**6) | st.integers(0, MAX_COUNT), min_size=4, max_size=4),
    st.sampled_from([0, 20 * FACTOR_SCALE, 7]),
    st.sampled_from([None, "default", "priority"]),
    st.sampled_from(
        [
            {},
            {"multipliers": {"priority": 2 * FACTOR_SCALE}},
            {"tiers": (Tier(10, {"input": 5}),)},
            {"cost_reported": True},
        ]
    ),
)
def test_text_costs_by_its_price_what_it_costs_by_its_row(
    per_million,
    per_unit,
    counts,
    markup_scaled,
    tier,
    beside,
):
    found = text_usage(*counts)
    assume(found is not None)
    assert found is not None
    priced = route(row(per_million, per_unit=per_unit, **beside))
    assert priced.rates is not None
    assert (priced.rates.text is None) == bool(beside)
    usage = Usage(**msgspec.structs.asdict(found))
    assert charge(found, priced, markup_scaled, tier) == charge(usage, priced, markup_scaled, tier)
