"""How requests in OpenAI's format are read and rewritten."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.base import Changes, Match
from gateway.dialects.body import MAX_LABEL_CHARS, BadRequest
from gateway.dialects.facts import NO_PARTS, Parts
from gateway.dialects.openai.dialect import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MODERATIONS,
    OpenAIDialect,
    parse,
    rewrite,
)
from tests.support.tables import Tables

TABLES = Tables(__file__)

SAY = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": SAY} | fields).encode()


def with_content(*parts: Any) -> bytes:
    return chat(messages=[{"role": "user", "content": list(parts)}])


def refused(endpoint: str, body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(endpoint, body)
    return caught.value


def test_a_plain_chat():
    body = chat()
    request = parse(CHAT, body)
    assert (request.operation, request.model, request.choices) == (CHAT, "gpt-4o", 1)
    assert (request.stream, request.include_usage, request.has_output) == (False, False, True)
    assert request.max_output_tokens is None
    assert request.end_user is None
    assert request.service_tier is None
    assert request.parts == NO_PARTS
    assert not request.unbounded_input
    assert request.input_bound_tokens == len(body)
    assert request.bound_input_tokens(None) == len(body)


def test_everything_a_chat_can_say():
    request = parse(
        CHAT,
        chat(
            n=3, max_tokens=50, stream=True, stream_options={"include_usage": True}, user="u1", service_tier="flex",
            unknown={"nested": [1, {"n": 99, "model": "x"}]},
        ),
    )  # fmt: skip
    assert (request.choices, request.max_output_tokens) == (3, 50)
    assert (request.stream, request.include_usage) == (True, True)
    assert (request.end_user, request.service_tier) == ("u1", "flex")


def test_nulls_are_as_if_not_given():
    names = ("n", "max_tokens", "max_completion_tokens", "stream", "stream_options", "user", "service_tier")
    request = parse(CHAT, chat(**dict.fromkeys(names)))
    assert (request.choices, request.max_output_tokens, request.stream, request.end_user) == (1, None, False, None)


@TABLES.each("the_larger_maximum_bounds")
def test_the_larger_maximum_bounds(given, bound):
    assert parse(CHAT, chat(**given)).max_output_tokens == bound


def test_the_newer_name_of_an_end_user_wins_and_is_bounded():
    assert parse(CHAT, chat(user="a", safety_identifier="b")).end_user == "b"
    assert parse(CHAT, chat(user="a", safety_identifier="")).end_user == "a"
    assert parse(CHAT, chat(user="x\0y")).end_user == "x\ufffdy"
    assert parse(CHAT, chat(user="x" * 1000)).end_user == "x" * MAX_LABEL_CHARS


@TABLES.each("wrong_types_and_bounds_name_the_field")
def test_wrong_types_and_bounds_name_the_field(fields, param):
    error = refused(CHAT, chat(**fields))
    assert error.param == param
    assert f"'{param}'" in error.message
    assert "$" not in error.message


@pytest.mark.parametrize(("endpoint", "missing"), [(CHAT, "messages"), (COMPLETIONS, "prompt"), (EMBEDDINGS, "input")])
def test_the_input_is_required(endpoint, missing):
    assert refused(endpoint, b'{"model":"m"}').param == missing


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"model":"m","messages":[]',
        b'{"model":"m","messages":[]} x',
        b'{"model":"m","messages":[],}',
        b'{"model":"m","messages":[],"x":NaN}',
        b'{"model":"m","messages":[],"x":Infinity}',
        b'{"model":"m","messages":[],"x":/**/1}',
        b'{"model":"m","messages":[],"x":"\xff"}',
        b'{"model":"m","messages":["\xed\xa0\x80"]}',
        b'{"model":"m","messages":["\\ud800"]}',
        b'\xef\xbb\xbf{"model":"m","messages":[]}',
        b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m","messages":[],"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    ],
)
def test_what_is_not_strict_json_is_refused(body):
    error = refused(CHAT, body)
    assert error.param is None
    assert error.message.startswith(("The body is not valid JSON: ", "The body must be a JSON object."))


@pytest.mark.parametrize(
    "twice",
    [
        b'{"model":"m","messages":[],"max_tokens":1,"max_tokens":9}',
        b'{"model":"m","messages":[],"max_tokens":1,"max_\\u0074okens":9}',
        b'{"\\u006dax_tokens":9, "model":"m", "messages":[], "max_tokens":1}',
        b'{"n":1,"model":"m","messages":[],"n":9}',
        b'{ "model" : "cheap" , "messages" : [] , "model" : "dear" }',
        b'{"model":"m","messages":[],"stream":true,"stream":false}',
        b'{"model":"m","messages":[{"content":[{"image_url":"u"}]}],"messages":[]}',
        b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true,"include_usage":false}}',
    ],
)
def test_a_name_that_stands_twice_is_refused(twice):
    assert "twice" in refused(CHAT, twice).message


def test_the_same_name_below_the_top_level_is_nothing():
    body = chat(max_tokens=5, tools=[{"parameters": {"n": 1, "model": "x", "max_tokens": 3}}] * 3, n=2)
    assert parse(CHAT, body).choices == 2
    body = chat(messages=[{"role": "user", "content": 'say "max_tokens": 5, \\u0074 "n"'}], max_tokens=5)
    assert parse(CHAT, body).max_output_tokens == 5


@pytest.mark.parametrize("name", ["MAX_TOKENS", "Max_Tokens", "max_to\u212aens", "\u017ftream", "N", "Messages"])
def test_a_metering_field_in_another_case_is_refused(name):
    error = refused(CHAT, chat(**{name: 5}))
    assert error.param == name.casefold()


@TABLES.each("no_name_that_metering_reads_is_spelled_two_ways")
def test_no_name_that_metering_reads_is_spelled_two_ways(body, param):
    error = refused(CHAT, body)
    assert error.param == param
    assert "twice" in error.message or "lower case" in error.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["n", "max_tokens", "temperature", "x", "", "\u00e9", 'a"b', "\U0001f600"])


@given(st.lists(st.tuples(NAMES, JSON), max_size=8), st.booleans(), st.booleans(), st.sampled_from([None, 1]))
def test_a_name_is_found_twice_however_the_body_is_written(pairs, ascii_only, spaced, indent):
    """Pairs are written as they come; the body is refused as double exactly when a name repeats."""
    pairs = [("model", "m"), ("messages", []), *pairs]
    dump = {"ensure_ascii": ascii_only, "indent": indent}
    colon, comma = (": ", ", ") if spaced else (":", ",")
    text = comma.join(f"{json.dumps(name, **dump)}{colon}{json.dumps(value, **dump)}" for name, value in pairs)
    body = f"{{{text}}}".encode()
    names = [name for name, _ in pairs]
    try:
        parse(CHAT, body)
        said_twice = False
    except BadRequest as error:
        said_twice = "twice" in error.message
    assert said_twice == (len(set(names)) != len(names))


MEMBERS = st.tuples(
    st.sampled_from(['"role"', '"content"', '"c\\u006fntent"', '"name"']),
    st.sampled_from([":", ": "]),
    st.sampled_from(['"user"', '""', '"a\\"b"', '"\\u0022"', '"\\u0022,\\u0022"', '"\u00e9"', '"text"']),
)


@given(st.lists(st.tuples(st.lists(MEMBERS, max_size=4), st.sampled_from([",", ", "])), max_size=3))
def test_a_members_name_is_found_twice_however_messages_are_written(
    messages,
):
    """Plain messages are told by their size: no spelling may make others look like them."""
    texts = ["{" + comma.join(map("".join, members)) + "}" for members, comma in messages]
    body = f'{{"model":"m","messages":[{",".join(texts)}]}}'.encode()
    names = [[json.loads(name) for name, _, _ in members] for members, _ in messages]
    try:
        parse(CHAT, body)
        said_twice = False
    except BadRequest as error:
        said_twice = "twice" in error.message
    assert said_twice == any(len(set(each)) != len(each) for each in names)


@TABLES.each("completions_count_prompts_and_the_larger_of_n_and_best_of")
def test_completions_count_prompts_and_the_larger_of_n_and_best_of(prompt, prompts):
    body = json.dumps({"model": "m", "prompt": prompt, "n": 2, "best_of": 4}).encode()
    request = parse(COMPLETIONS, body)
    assert request.choices == 4 * prompts
    assert request.input_bound_tokens == len(body)


def test_completions_may_ask_for_no_tokens_at_all():
    assert parse(COMPLETIONS, b'{"model":"m","prompt":"x","max_tokens":0,"echo":true}').max_output_tokens == 0


def test_embeddings_have_no_output():
    request = parse(EMBEDDINGS, b'{"model":"e","input":["a","b"],"stream":true,"n":5}')
    assert (request.has_output, request.stream, request.choices) == (False, False, 1)
    assert request.max_output_tokens is None
    assert refused(EMBEDDINGS, b'{"model":"e","input":{"a":1}}').param == "input"


TEXT = {"type": "text", "text": "what is this?"}
LINK = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}}
INLINE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
PAPER = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "A" * 500}}


def test_parts_are_counted_and_bounded_by_the_price_row():
    body = with_content(TEXT, LINK, INLINE, SOUND, PAPER)
    request = parse(CHAT, body)
    inline = len(INLINE["image_url"]["url"]) + 2 + len(PAPER["file"]["file_data"]) + 2
    assert request.parts == Parts(images=2, audios=1, files=1, inline_bytes=inline, audio_bytes=len('"AAAA"'))
    assert request.parts.data_bytes == inline + len('"AAAA"')
    assert not request.unbounded_input
    bounds = {"image": 1500, "file": 20_000}
    assert request.bound_input_tokens(bounds) == len(body) - inline + 2 * 1500 + 20_000


def test_without_a_bound_for_a_part_only_the_context_window_is_one():
    assert parse(CHAT, with_content(LINK)).bound_input_tokens(None) is None
    assert parse(CHAT, with_content(LINK, PAPER)).bound_input_tokens({"image": 1500}) is None
    assert parse(CHAT, with_content(SOUND)).bound_input_tokens(None) is not None


def test_text_parts_are_text():
    body = with_content(TEXT, {**TEXT, "cache_control": {"type": "ephemeral"}})
    assert parse(CHAT, body).bound_input_tokens(None) == len(body)
    body = chat(messages=[{"role": "user", "content": ["plain", "strings"]}])
    assert parse(CHAT, body).bound_input_tokens(None) == len(body)


def test_calls_and_tools_are_text():
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"file_id": 1}'}}]
    body = chat(messages=[*SAY, {"role": "assistant", "content": None, "tool_calls": calls}])
    assert parse(CHAT, body).bound_input_tokens(None) == len(body)


@TABLES.each("input_that_is_not_in_the_body_is_bounded_by_the_context_window")
def test_input_that_is_not_in_the_body_is_bounded_by_the_context_window(body):
    request = parse(CHAT, body)
    assert request.unbounded_input
    assert request.bound_input_tokens({"image": 1, "file": 1}) is None


@pytest.mark.parametrize(
    "message",
    [
        b'{"content":[{"type":"\\u0069mage_url","\\u0069mage_url":"u"}]}',
        b'{"\\u0063ontent": [ {"image_url":"u"}]}',
        b'{"content":[{"image_url":"u","type":"text","text":""}]}',
    ],
)
def test_no_spelling_hides_an_image(message):
    assert parse(CHAT, b'{"model":"m","messages":[' + message + b"]}").parts.images == 1


def test_rewriting_nothing_returns_the_same_object():
    body = chat(stream=True)
    assert rewrite(body, Changes()) is body


def test_a_rewrite_changes_only_what_it_must():
    nested = b'{ "b":1.50 , "a" : [1e3,"\\u00e9"],"b" : 2}'
    body = b'{"model": "a/b", "messages": [ ], "metadata":' + nested + b', "big":12345678901234567890123}'
    assert rewrite(body, Changes(model="b")) == (
        b'{"model":"b","messages":[ ],"metadata":' + nested + b',"big":12345678901234567890123}'
    )


def test_include_usage_keeps_other_stream_options():
    for given_options in ({}, {"stream_options": None}, {"stream_options": {}}):
        body = rewrite(chat(stream=True, **given_options), Changes(include_usage=True))
        assert json.loads(body)["stream_options"] == {"include_usage": True}
        assert parse(CHAT, body).include_usage
    options = {"include_obfuscation": False, "include_usage": False}
    body = rewrite(chat(stream=True, stream_options=options), Changes(include_usage=True))
    assert json.loads(body)["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_an_imposed_maximum_goes_where_the_provider_takes_it():
    def maxima(**fields):
        body = json.loads(rewrite(chat(**fields), Changes(max_output_tokens=16, max_field="max_completion_tokens")))
        return {name: value for name, value in body.items() if name.startswith(("max_", "n_"))}

    assert maxima() == {"max_completion_tokens": 16}
    assert maxima(max_tokens=None) == {"max_completion_tokens": 16}
    assert maxima(max_tokens=100) == {"max_completion_tokens": 16}
    assert maxima(max_tokens=100, max_completion_tokens=90) == {"max_tokens": 16, "max_completion_tokens": 16}
    assert maxima(max_tokens=5, max_completion_tokens=90) == {"max_tokens": 5, "max_completion_tokens": 16}
    body = rewrite(chat(), Changes(max_output_tokens=16, max_field="max_tokens"))
    assert parse(CHAT, body).max_output_tokens == 16


@given(st.dictionaries(st.sampled_from(["x", "seed", "tools", "\u00e9"]), JSON))
def test_what_is_rewritten_means_the_same(further):
    body = chat(**further)
    before, after = (
        json.loads(body),
        json.loads(rewrite(body, Changes(model="other", max_output_tokens=99, max_field="max_completion_tokens"))),
    )
    assert after == before | {"model": "other", "max_completion_tokens": 99}


@dataclass(frozen=True, slots=True)
class Asked:
    """A `Head` without more to it than its endpoint."""

    match: Match
    path: str = CHAT
    headers: Mapping[str, str] = field(default_factory=dict)


def test_the_dialect_offers_all_of_it():
    dialect = OpenAIDialect()
    assert {endpoint.operation for endpoint in dialect.endpoints} == {CHAT, COMPLETIONS, EMBEDDINGS, MODERATIONS}
    assert "/azure/openai/deployments/{model}/chat/completions" in {each.path for each in dialect.endpoints}
    assert dialect.parse(Asked(Match(dialect, dialect.endpoints[0])), chat()).model == "gpt-4o"
    body = dialect.rewrite(chat(), Changes(max_output_tokens=3, max_field="max_tokens"))
    assert parse(CHAT, body).max_output_tokens == 3
    answer = b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    reported = dialect.usage_from_json(CHAT, answer)
    assert reported.usage.total_tokens == 3
    assert dialect.tap(b"text/event-stream", usage_added=True, include_cost=False).feed(b": hi\n\n") == b": hi\n\n"


def test_granted_calls_are_written_where_the_provider_may_know_the_field():
    body = chat(tools=[{"type": "web_search", "filters": {"a": 1.50}}], search_parameters={"mode": "on", "sources": []})
    written = json.loads(rewrite(body, Changes(max_field="max_tokens", tool_calls=3)))
    assert written == {
        **json.loads(body),
        "max_tool_calls": 3,
        "search_parameters": {"mode": "on", "sources": [], "max_search_results": 3},
    }
    assert b'{"a": 1.5}' in rewrite(body, Changes(max_field="max_tokens", tool_calls=3))
    assert "max_tool_calls" not in json.loads(
        rewrite(body, Changes(tool_calls=3, max_field="max_completion_tokens"))
    )  # OpenAI refuses it in chats
    own = chat(max_tool_calls=2, search_parameters={"max_search_results": 1})
    assert json.loads(rewrite(own, Changes(max_field="max_tokens", tool_calls=3))) == json.loads(own)
    nothing = chat(max_tool_calls=None, search_parameters=None)
    assert json.loads(rewrite(nothing, Changes(max_field="max_tokens", tool_calls=3)))["max_tool_calls"] == 3


def test_a_body_of_the_responses_api_is_told_where_to_go():
    error = refused(CHAT, b'{"model":"m","input":"hi"}')
    assert error.param == "messages"
    assert "/v1/responses" in error.message
    assert "/v1/responses" not in refused(CHAT, b'{"model":"m"}').message
