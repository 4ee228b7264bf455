"""Whatever a request does within its bounds costs no more than what is held for it."""

import json
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects.facts import Work
from gateway.dialects.openai.dialect import CHAT, parse
from gateway.dialects.openai.messages import input_texts
from gateway.proxy.estimate import NotPriced, charge, dearest, markup_of, worst_case
from gateway.proxy.preparation import counted_tokens
from gateway.tokens import CL100K, O200K, Tokenizer
from tests.gateway.proxy.estimates import STRICT, hold_nano, markups, price_rows, request, route, row, usages


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@settings(max_examples=400, deadline=None)
@given(st.data(), price_rows(), markups, markups, st.integers(1, 9), st.integers(1, 4000))
def test_no_usage_within_a_request_s_bounds_costs_more_than_its_hold(
    data, price, own_markup, plan_markup, choices, body_bytes
):
    has_output = data.draw(st.booleans())
    asked = data.draw(st.one_of(st.none(), st.integers(0, 6000))) if has_output else None
    tier = data.draw(st.sampled_from([None, "default", "auto", "flex", "batch", "priority"]))
    parsed = request(
        choices=choices,
        max_output_tokens=asked,
        input_bound_tokens=body_bytes,
        has_output=has_output,
        service_tier=tier,
    )
    way = route(price, markup_scaled=own_markup, own_max_output=data.draw(st.one_of(st.none(), st.integers(1, 5000))))
    try:
        need = worst_case(parsed, way, plan_markup, STRICT)
    except NotPriced:
        unbounded = has_output and asked is None and way.max_output_tokens is None
        assert unbounded or (tier == "priority" and "priority" not in (price.multipliers or {}))
        return
    granted = data.draw(st.integers(need.least_output, need.most_output))
    window = price.context_window
    input_bound = body_bytes if window is None or not has_output else min(body_bytes, window)
    output_bound = 0
    if has_output:
        output_bound = granted if asked is None else min(bound for bound in (asked, window) if bound is not None)
    usage = data.draw(usages(input_bound * choices, output_bound * choices))
    served_tier = data.draw(st.sampled_from([None, "default", "flex", "batch", "priority"]))
    charged = charge(usage, way, markup_of(way, plan_markup), served_tier)
    assert charged.charged_nano <= hold_nano(need, granted)
    assert usage.input_tokens <= need.input_tokens
    assert usage.output_tokens <= need.choices * granted
    assert charged.cost_nano <= charged.charged_nano


BODIES = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=80)}), max_size=4
        )
    },
    optional={
        "n": st.integers(1, 5),
        "max_tokens": st.integers(1, 500),
        "max_completion_tokens": st.integers(1, 500),
        "user": st.text(max_size=10),
    },
)


@settings(max_examples=150, deadline=None)
@given(st.data(), BODIES)
def test_the_bound_holds_from_the_body_on(data, body):
    encoded = json.dumps({"model": "m", **body}, ensure_ascii=data.draw(st.booleans())).encode()
    parsed = parse(CHAT, encoded)
    need = worst_case(parsed, route(row()), 0, STRICT)
    granted = data.draw(st.integers(need.least_output, need.most_output))
    asked = max((body[name] for name in ("max_tokens", "max_completion_tokens") if name in body), default=granted)
    text_bytes = sum(len(message["content"].encode()) for message in body["messages"])
    choices = body.get("n", 1)
    usage = data.draw(usages((text_bytes + 8 * len(body["messages"])) * choices, asked * choices))
    assert charge(usage, route(row()), 0, None).charged_nano <= hold_nano(need, granted)


ODD = [
    '" +#+#+#+#+#+',
    "\\niejszych",
    "=-=-=-=-=-=-=-=-\n",
    "\tVirginia",
    "a",
    " ",
    "\u00e9",
    "\U0001f600",
    "\r\n",
    "0",
]
texts = st.builds(
    lambda unit, times, rest: unit * times + rest, st.sampled_from(ODD), st.integers(0, 900), st.text(max_size=20)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, max_size=3), st.booleans())
async def test_counted_tokens_are_an_upper_bound_too(tokenizer, contents, in_ascii):
    """A JSON has fewer tokens than its texts where an escape cuts a word in a luckier place."""
    messages = [{"role": "user", "content": content} for content in contents]
    compact = {"ensure_ascii": in_ascii, "separators": (",", ":")}
    for fields in ({"messages": messages}, {"prompt": contents}, {"input": "".join(contents)}):
        body = json.dumps({"model": "m", **fields}, **compact).encode()  # type: ignore[arg-type]
        for vocabulary in (O200K, CL100K):
            exact = tokenizer._encoding(vocabulary).encode_ordinary
            if "messages" in fields:
                least = 3 + sum(4 + len(exact(content)) for content in contents)
            else:
                least = sum(len(exact(text)) for text in (contents if "prompt" in fields else [fields["input"]]))
            assert least <= await counted_tokens(len(body), input_texts(body), tokenizer, vocabulary)


@settings(max_examples=200, deadline=None)
@given(st.data(), price_rows(), markups, st.integers(0, 5), st.integers(0, 5), st.integers(1, 3), st.integers(0, 10**9))
def test_no_work_within_its_uses_costs_more_than_its_hold(data, price, markup, uses, searches, choices, search_nano):
    price = replace(price, per_unit={**price.per_unit, "search": search_nano}, context_window=3000)
    work = Work(True, uses=max(uses, searches), searches=searches)
    need = worst_case(request(unbounded_input=True, choices=choices, work=work), route(price), markup, STRICT)
    granted = data.draw(st.integers(need.least_output, need.most_output))
    usage = data.draw(usages(3000 * (work.uses + 1) * choices, granted * choices))
    usage = msgspec.structs.replace(usage, searches=data.draw(st.integers(0, searches * choices)))
    tier = data.draw(st.sampled_from([None, "default", "flex", "batch", "priority"]))
    assert charge(usage, route(price), markup, tier).charged_nano <= hold_nano(need, granted)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(1, 50), st.integers(0, 50), st.integers(1, 3), st.data())
def test_no_further_call_of_a_model_costs_more_than_the_hold(calls, uses, body_bytes, asked, choices, data):
    """Each may read a whole window and write as much as the model can, whatever the client's own maximum is."""
    window, own = 200, data.draw(st.integers(1, 100))
    price = row(context_window=window, max_output_tokens=own)
    work = Work(uses=uses, calls=calls, outside=uses > 0)
    asking = request(
        work=work, choices=choices, max_output_tokens=asked, input_bound_tokens=body_bytes, unbounded_input=uses > 0
    )
    need = worst_case(asking, route(price), 0, STRICT)
    most_input = (uses + calls) * window + (window if uses or calls else min(body_bytes, window))
    used = Usage(input_tokens=choices * most_input, output_tokens=choices * (asked + calls * own))
    assert charge(used, route(price), 0, None).cost_nano <= hold_nano(need, need.most_output)
    assert need.input_tokens >= used.input_tokens
    assert need.choices * need.most_output >= used.output_tokens


PRICES = st.builds(
    lambda input_, output, most: row({"input": input_, "output": output}, max_output_tokens=most),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.integers(1, 10**5),
)


@given(st.lists(PRICES, min_size=1, max_size=4), st.none() | st.integers(1, 10**4), st.integers(0, 10**6))
def test_a_hold_covers_whichever_candidate_serves(prices, asked, markup):
    parsed, candidates = request(max_output_tokens=asked), [route(each) for each in prices]
    need = dearest(parsed, candidates, markup, STRICT)
    for each in candidates:
        own = worst_case(parsed, each, markup, STRICT)
        assert need.input_cost_nano >= own.input_cost_nano
        assert need.unit_nano >= own.unit_nano
        assert need.most_output >= own.most_output
    assert dearest(parsed, candidates[:1], markup, STRICT) == worst_case(parsed, candidates[0], markup, STRICT)
    with pytest.raises(NotPriced):
        dearest(parsed, [*candidates, route(None)], markup, STRICT)
