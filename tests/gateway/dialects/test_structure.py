"""The structure of a body is bounded before anything of it is built, and what passes can be decoded."""

import json
import math
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from gateway.dialects.body import BadRequest, StructureBounds, check_size, check_value, has_overflow, outside_strings
from gateway.dialects.openai.dialect import CHAT, COMPLETIONS, EMBEDDINGS, parse
from tests.support.tables import Tables

TABLES = Tables(__file__)

MIB = 1 << 20
BOUNDS = StructureBounds()
SAY = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": SAY, **fields}).encode()


def refused(body: bytes, bounds: StructureBounds = BOUNDS, endpoint: str = CHAT) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(endpoint, body, bounds)
    return caught.value


@pytest.mark.parametrize(
    "unit", [b'{"":[]},', b"[],", b"{},", b'{"a":{}},', b'{"role":"user","content":""},', b"[[]],", b'"",', b"0,"]
)
def test_32_mib_of_structure_are_refused_and_nothing_is_built_of_them(unit):
    head = b'{"model":"m","messages":['
    body = head + unit * ((32 * MIB - len(head)) // len(unit) - 2) + unit[:-1] + b"]}"
    tracemalloc.start()
    try:
        error = refused(body)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    most = BOUNDS.values if unit in (b"0,", b'"",') else BOUNDS.members
    assert f"it has more than {most} " in error.message
    assert peak_bytes < 64 * MIB  # the strings of one megabyte are taken out at a time


def test_the_size_can_be_checked_by_itself():
    few = StructureBounds(members=10)
    check_size(b"[" * 10 + b"]" * 10, few)
    check_size(b'{"' + b"[" * 1000 + b'":0}', few)
    with pytest.raises(BadRequest, match="10 objects, arrays and names"):
        check_size(b"[" * 21, few)  # whether it is JSON or not
    with pytest.raises(BadRequest, match="10 objects, arrays and names"):
        check_size(b'{"\\\\":[' + b"[" * 9 + b" " * 9, few)


FEW = StructureBounds(depth=6, fields=4, messages=3, parts=4, tools=2, members=60, values=80)


def messages_of(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content} for content in contents]


@TABLES.each("each_bound_is_named")
def test_each_bound_is_named(within, above, named):
    parse(CHAT, within, FEW)
    assert named in refused(above, FEW).message


def test_prompts_and_inputs_are_bounded_as_messages_are_and_token_ids_are_not():
    for endpoint, field in ((COMPLETIONS, "prompt"), (EMBEDDINGS, "input")):
        for items in (["a"], [[1, 2]]):
            body = json.dumps({"model": "m", field: items * 3}).encode()
            parse(endpoint, body, FEW)
            body = json.dumps({"model": "m", field: items * 4}).encode()
            assert f"3 items in '{field}'" in refused(body, FEW, endpoint).message
        parse(endpoint, json.dumps({"model": "m", field: [1] * 50}).encode(), FEW)


def test_signs_in_texts_are_no_structure():
    text = '[[{{"a": 1, \\"b\\": [}}' * 100 + "\\"
    request = parse(CHAT, chat(messages=messages_of(text, [{"type": "text", "text": text}]), a=[text]), FEW)
    assert request.model == "m"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


def counts(value: Any) -> tuple[int, int, int]:
    """Members, commas and levels of a value."""
    if isinstance(value, dict):
        inner = [counts(each) for each in value.values()]
        names = len(value)
    elif isinstance(value, list):
        inner, names = [counts(each) for each in value], 0
    else:
        return 0, 0, 0
    members = 1 + names + sum(each[0] for each in inner)
    commas = max(0, len(inner) - 1) + sum(each[1] for each in inner)
    return members, commas, 1 + max((each[2] for each in inner), default=0)


@given(JSON, st.booleans(), st.integers(0, 12), st.integers(0, 12), st.integers(1, 6))
def test_what_is_counted_is_what_stands_there(value, ascii_only, members, values, depth):
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    bounds = StructureBounds(members=members, values=values, depth=depth)
    has_members, has_commas, levels = counts(value)
    if has_members > members or has_commas > values:
        with pytest.raises(BadRequest):
            check_size(text, bounds)
    else:
        check_size(text, bounds)
    if levels > depth:
        with pytest.raises(BadRequest, match=f"more than {depth} levels"):
            check_value(Raw(text), bounds, 0, "x")
    else:
        check_value(Raw(text), bounds, 0, "x")


def test_strings_are_taken_out_across_slices():
    for size in range(MIB - 3, MIB + 4):
        body = b'["' + b"x" * (size - 6) + b'\\\\\\"[,]",{}]'
        assert outside_strings(body) == b"[,{}]"
        body = b'["' + b"\\" * (2 * size) + b'",{}]'
        assert outside_strings(body) == b"[,{}]"


@pytest.mark.parametrize("levels", [257, 900, 100_000])
@pytest.mark.parametrize(
    "place", ['"x":%s', '"tools":[{"x":%s}]', '"messages":[{"content":[%s]}]', '"messages":[{"tool_calls":%s}]']
)
def test_levels_are_bounded_wherever_they_are(place, levels):
    body = '{"model":"m","messages":[],' + place % ("[" * levels + "]" * levels) + "}"
    assert "nested too deeply" in refused(body.replace('"messages":[],"messages"', '"messages"').encode()).message


def test_as_many_levels_as_the_bound_allows_are_accepted():
    parse(CHAT, b'{"model":"m","messages":[],"x":' + b"[" * 255 + b"]" * 255 + b"}")
    assert "256 levels" in refused(b'{"model":"m","messages":[],"x":' + b"[" * 256 + b"]" * 256 + b"}").message


OVERFLOWS = [
    "1e999",
    "-1e999",
    "1E309",
    "1e+0000999",
    "1.8e308",
    "0.1e400",
    "1e400000000000000000000",
    "1" * 400,
    "-" + "9" * 309,
    "1" * 250 + "e99",
    "1" * 4000,
    "1" * 5000,
    "12345678901234567890e300",
    "1." + "0" * 300 + "e999",
]
NUMBERS = [
    "1e308",
    "-1e308",
    "9" * 308,
    "1e-999",
    "0e999",
    "0.0e99999",
    "0." + "0" * 400 + "1e500",
    "1" * 25,
    "1e5",
    "0",
]
PLACES = [
    ('{"model":"m","messages":[],"temperature":%s}', "temperature"),
    ('{"model":"m","messages":[],"x":{"y":[1,%s]}}', "x"),
    ('{"model":"m","messages":[],"tools":[{"type":"function","function":{"parameters":{"maximum":%s}}}]}', "tools"),
    ('{"model":"m","messages":[],"stream":true,"stream_options":{"x":%s}}', "stream_options"),
    ('{"model":"m","messages":[],"response_format":{"schema":{"minimum": %s}}}', "response_format"),
    ('{"model":"m","messages":[{"role":"user","content":%s}]}', "messages"),
    ('{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":%s}]}]}', "messages"),
    ('{"model":"m","messages":[{"role":"user","content":[1,%s]}]}', "messages"),
    ('{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":%s}}]}]}', "messages"),
    ('{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":%s}]}]}', "messages"),
    (
        '{"model":"m","messages":[{"role":"a","content":null,"tool_calls":[{"function":{"arguments":{"a":%s}}}]}]}',
        "messages",
    ),
]


@pytest.mark.parametrize("number", OVERFLOWS, ids=lambda number: number[:20])
@pytest.mark.parametrize(("place", "param"), PLACES)
def test_a_number_that_no_double_holds_is_refused_wherever_it_is(place, param, number):
    error = refused((place % number).encode())
    assert error.param == param
    assert "number" in error.message


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:20])
@pytest.mark.parametrize(("place", "param"), PLACES)
def test_a_number_that_a_double_holds_is_not(place, param, number):
    body = (place % number).encode()
    parse(CHAT, body)
    msgspec.json.decode(body)


@pytest.mark.parametrize("text", ["1e999", ":1e999,", "[1e999]", '\\",:1e999,\\"', "1" * 400, "e000" * 5000, "a:1e999"])
def test_what_looks_like_a_large_number_in_a_text_is_text(text):
    for place, _ in PLACES:
        parse(CHAT, (place % f'"{text}"').encode())
    for endpoint, field in ((COMPLETIONS, "prompt"), (EMBEDDINGS, "input")):
        parse(endpoint, json.dumps({"model": "m", field: text}).encode())
        parse(endpoint, json.dumps({"model": "m", field: [text]}).encode())
        error = refused(f'{{"model":"m","{field}":[1,1e999]}}'.encode(), endpoint=endpoint)
        assert error.param == field


@given(st.lists(st.sampled_from([*OVERFLOWS[:10], *NUMBERS, '"1e999"', '"\\"1e999"', "[]", "null"]), max_size=5))
@example(['"' + "e000" * 3000 + '"', "1e999"])
def test_overflow_is_seen_exactly(values):
    text = f"[{','.join(values)}]"
    overflows = any(math.isinf(float(value)) for value in values if value[0] in "-0123456789")
    assert has_overflow(text.encode()) == overflows


NASTY = st.sampled_from(
    [
        "1e999",
        "1" * 400,
        "-1e-999",
        '"\\ud800"',
        '"\\u0000"',
        "[" * 300 + "]" * 300,
        "[" * 900 + "]" * 900,
        "1" * 5000,
        '{"a":1,"a":2}',
        '"\\""',
        "1.5e308",
        "NaN",
        "[1,]",
        '"\x01"',
        "-",
        "01",
        "1.",
        '"é"',
        "{}",
        "[null]",
        "true",
    ]
)
WRITTEN = st.recursive(
    NASTY | st.builds(json.dumps, JSON),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(inner, max_size=3).map(
            lambda items: "{" + ",".join(f'"n{i}": {item}' for i, item in enumerate(items)) + "}"
        )
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        "messages",
        "tools",
        "metadata",
        "x",
        "stream_options",
        "reasoning",
        "stop",
        "temperature",
        "models",
        "plugins",
        "modalities",
        "response_format",
        "user",
        "extra_body",
        "prompt",
        "input",
        "search_parameters",
        "data_sources",
    ]
)
TEMPLATES = st.sampled_from(
    [
        "%s",
        '[{"role":"user","content":%s}]',
        '[{"role":"user","content":[{"type":"text","text":%s}]}]',
        '[{"role":"user","content":[{"type":"image_url","image_url":{"url":%s}}]}]',
        '[{"role":"user","content":[{"type":"x","file":%s}]}]',
        '[{"role":"assistant","tool_calls":%s}]',
        '[{"type":"function","function":{"parameters":%s}}]',
        '{"include_usage":true,"x":%s}',
    ]
)


@given(
    st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS]), st.dictionaries(FIELDS, st.tuples(TEMPLATES, WRITTEN), max_size=3)
)
def test_a_body_that_is_accepted_can_be_decoded(endpoint, fields):
    written = {"messages": "[]", "prompt": '"p"', "input": '"i"', **{k: t % w for k, (t, w) in fields.items()}}
    body = ('{"model":"m",' + ",".join(f'"{name}":{text}' for name, text in written.items()) + "}").encode()
    try:
        parse(endpoint, body)
    except BadRequest:
        return
    assert isinstance(msgspec.json.decode(body), dict)
