"""What a request to the Responses API asks for at most, and what of it is refused."""

import json
from typing import Any

import pytest

from gateway.dialects.base import Changes
from gateway.dialects.body import BadRequest, StructureBounds
from gateway.dialects.facts import NO_PARTS, NO_WORK, ParsedRequest, Parts, Work
from gateway.dialects.openai_responses.dialect import RESPONSES_CREATION, ResponsesDialect
from gateway.dialects.openai_responses.request import (
    CALLS_WITH_COMPACTION,
    COMPACT,
    INPUT_TOKENS,
    KEPT_REASONING_TOKENS,
    RESPONSES,
    input_texts,
    input_tokens,
    parse,
)
from tests.support.tables import Tables

TABLES = Tables(__file__)

BOUNDS = StructureBounds()
PIXEL = "data:image/png;base64," + "A" * 400
SEARCH = {"type": "web_search"}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-4o-mini", "input": "Hello", **fields}).encode()


def read(operation: str = RESPONSES, **fields: Any) -> ParsedRequest:
    return parse(operation, body(**fields), BOUNDS, RESPONSES_CREATION)


def part(**fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "input_text", "text": "Look"}, fields]}]


def test_a_plain_request():
    parsed = read(instructions="Be brief", max_output_tokens=99, user="me", service_tier="flex")
    assert (parsed.model, parsed.stream, parsed.include_usage, parsed.choices) == ("gpt-4o-mini", False, True, 1)
    assert (parsed.max_output_tokens, parsed.max_fields) == (99, ("max_output_tokens",))
    assert (parsed.end_user, parsed.service_tier, parsed.has_output) == ("me", "flex", True)
    assert (parsed.parts is NO_PARTS, parsed.work is NO_WORK, parsed.unbounded_input) == (True, True, False)
    assert parsed.input_bound_tokens == len(
        body(instructions="Be brief", max_output_tokens=99, user="me", service_tier="flex")
    )
    assert read(stream=True).stream


@TABLES.each("items_that_stand_in_the_body")
def test_items_that_stand_in_the_body(items):
    parsed = read(input=items)
    assert (parsed.parts is NO_PARTS, parsed.work is NO_WORK, parsed.unbounded_input) == (True, True, False)


def test_images_and_files_are_counted():
    parsed = read(input=part(type="input_image", image_url=PIXEL, detail="low"))
    assert parsed.parts == Parts(images=1, inline_bytes=len(PIXEL) + 2)
    assert not parsed.unbounded_input
    parsed = read(input=part(type="input_file", filename="a.pdf", file_data="data:application/pdf;base64,AAAA"))
    assert (parsed.parts.files, parsed.unbounded_input) == (1, False)
    shot = [
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": PIXEL}}
    ]
    assert read(input=shot).parts.images == 1


@TABLES.each("input_that_nothing_in_the_body_bounds")
def test_input_that_nothing_in_the_body_bounds(items):
    assert read(input=items).unbounded_input


def test_uses_of_tools_are_bounded_by_the_request():
    assert read(tools=[FUNCTION, {"type": "custom", "name": "c"}, {"type": "apply_patch"}]).work is NO_WORK
    asked = read(tools=[SEARCH, FUNCTION], max_tool_calls=3)
    assert asked.work == Work(uses=3, searches=3, bounded_tools=("web_search",))
    assert not asked.unbounded_input  # what a call adds is of the work
    work = read(tools=[{"type": "mcp", "server_label": "s", "server_url": "https://s"}], max_tool_calls=2).work
    assert (work.uses, work.searches) == (2, 0)
    assert read(context_management=[{"type": "compaction", "compact_threshold": 1000}]).work.uses == 1
    with_both = read(context_management=[{"type": "compaction"}], tools=[SEARCH], max_tool_calls=2).work
    assert (with_both.uses, with_both.searches) == (5, 2)


def test_tools_without_a_bound_are_left_open():
    assert read(tools=[SEARCH, FUNCTION]).work == Work(open_tools=("web_search",), open_searches=1)
    work = read(tools=[{"type": "mcp", "server_label": "s"}, {"type": "tool_search"}, {"type": "time_travel"}]).work
    assert work == Work(open_tools=("mcp", "tool_search", "time_travel"), unknown_tools=("time_travel",))
    assert read(tools=[{"type": "time_travel"}], max_tool_calls=1).work.unknown_tools == ("time_travel",)
    compacting = read(tools=[SEARCH], context_management=[{"type": "compaction"}]).work
    assert (compacting.uses, compacting.most_calls) == (CALLS_WITH_COMPACTION + 1, CALLS_WITH_COMPACTION)
    assert read(input=[{"role": "user", "content": "Hi"}, {"type": "compaction_trigger"}]).work.uses == 1
    assert read(mcp_servers=[{"url": "u"}]).work.open_tools == ("mcp_servers",)


def test_no_tool_runs_for_a_count_or_a_compaction():
    for operation in (COMPACT, INPUT_TOKENS):
        assert read(operation, tools=[SEARCH]).work is NO_WORK


@TABLES.each("what_nothing_bounds_is_refused")
def test_what_nothing_bounds_is_refused(fields, param):
    with pytest.raises(BadRequest) as refused:
        read(**fields)
    assert refused.value.param == param


def test_a_name_that_stands_twice_is_refused():
    with pytest.raises(BadRequest):
        parse(
            RESPONSES,
            b'{"model":"m","input":"x","max_output_tokens":16,"max_output_tokens":9000}',
            BOUNDS,
            RESPONSES_CREATION,
        )
    with pytest.raises(BadRequest):
        parse(
            RESPONSES,
            b'{"model":"m","input":[{"role":"user","content":"a","content":"b"}]}',
            BOUNDS,
            RESPONSES_CREATION,
        )


def test_a_compaction_has_no_maximum_and_a_count_no_output():
    compaction = read(COMPACT, max_output_tokens=16, stream=True)
    assert (compaction.max_fields, compaction.stream, compaction.has_output) == ((), False, True)
    assert compaction.max_output_tokens == 2**31 - 1
    count = read(INPUT_TOKENS)
    assert (count.has_output, count.max_output_tokens) == (False, None)


def test_only_what_metering_needs_is_rewritten():
    dialect = ResponsesDialect(BOUNDS)
    given = body(metadata={"a": 1.50})
    assert dialect.rewrite(given, Changes(max_field="max_output_tokens")) is given
    assert dialect.rewrite(given, Changes(**{"max_output_tokens": 5}, max_field="")) is given
    rewritten = dialect.rewrite(
        given, Changes(model="m", include_usage=True, max_output_tokens=20, max_field="max_output_tokens")
    )
    assert json.loads(rewritten) == {**json.loads(given), "model": "m", "max_output_tokens": 20}
    granted = dialect.rewrite(given, Changes(max_field="max_output_tokens", tool_calls=3))
    assert json.loads(granted) == {**json.loads(given), "max_tool_calls": 3}
    assert b'{"a": 1.5}' in granted
    own = body(max_tool_calls=2)
    assert json.loads(dialect.rewrite(own, Changes(max_field="", tool_calls=3)))["max_tool_calls"] == 2
    smaller = dialect.rewrite(body(max_output_tokens=16), Changes(max_output_tokens=20, max_field="max_output_tokens"))
    assert json.loads(smaller)["max_output_tokens"] == 16


def test_texts_and_tokens_of_a_request():
    given = body(
        instructions="Be brief", input=[{"role": "user", "content": [{"type": "input_text", "text": "Look é"}]}]
    )
    assert [text for text, _ in input_texts(given)] == ["Be brief", "Look é"]
    assert [size for _, size in input_texts(body())] == [7]
    tokens, inline = input_tokens(body(input=part(type="input_image", image_url=PIXEL)), len)
    assert [each.kind for each in inline] == ["image"]
    assert 4 <= tokens < 40
    assert input_tokens(b"no json", len) == (7, [])


def test_a_body_of_chat_completions_is_told_where_to_go():
    with pytest.raises(BadRequest) as refused:
        parse(RESPONSES, b'{"model":"m","messages":[]}', BOUNDS, RESPONSES_CREATION)
    assert "/v1/chat/completions" in refused.value.message


def test_a_request_to_fill_the_cache_is_held_for_its_input_on_a_socket():
    for wish in ({"generate": False}, {"prompt_cache_options": {"prewarm": True}}):
        given = body(**wish, tools=[SEARCH], max_output_tokens=99)
        parsed = parse(RESPONSES, given, BOUNDS, RESPONSES_CREATION, on_socket=True)
        assert (parsed.prepares, parsed.has_output, parsed.work is NO_WORK, parsed.max_fields) == (
            True,
            False,
            True,
            (),
        )
        assert parsed.input_bound_tokens == len(given)
        over_http = parse(RESPONSES, given, BOUNDS, RESPONSES_CREATION)
        assert (over_http.has_output, over_http.max_output_tokens) == (True, 99)
        assert over_http.prepares is ("prompt_cache_options" in wish)
    for no_wish in ({"generate": True}, {"generate": None}, {"prompt_cache_options": {"prewarm": False}}):
        parsed = parse(RESPONSES, body(**no_wish), BOUNDS, RESPONSES_CREATION, on_socket=True)
        assert (parsed.prepares, parsed.has_output) == (False, True)


@TABLES.each("reasoning_that_is_only_named_is_held_by_the_item")
def test_reasoning_that_is_only_named_is_held_by_the_item(item):
    given = body(input=[item, item])
    parsed = parse(RESPONSES, given, BOUNDS, RESPONSES_CREATION)
    assert not parsed.unbounded_input
    assert parsed.input_bound_tokens == len(given) + 2 * KEPT_REASONING_TOKENS


def test_encrypted_reasoning_is_counted_as_what_it_stands_for():
    given = body(input=[{"type": "reasoning", "encrypted_content": "g" * 8000}])
    assert 1000 < input_tokens(given, len)[0] < 1500
