"""How requests in Anthropic's format are read and rewritten."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic.dialect import COUNT, MESSAGE, AnthropicDialect, parse, rewrite
from gateway.dialects.anthropic.work import FURTHER_CALLS, LOOP_TURNS, SERVER_TOOL_TOKENS, TOOL_SYSTEM_TOKENS
from gateway.dialects.base import Changes
from gateway.dialects.body import BadRequest
from gateway.dialects.facts import NO_PARTS, NO_WORK
from tests.gateway.dialects.anthropic.bodies import SAY, message
from tests.support.tables import Tables

TABLES = Tables(__file__)

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 4_000}}
PAGE = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def content(*blocks: Any) -> list[Any]:
    return [{"role": "user", "content": list(blocks)}]


def refused(body: bytes, operation: str = MESSAGE) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(operation, body)
    return caught.value


@pytest.mark.parametrize("beside", [{"definition": {"type": "custom"}}, {"definition": 7}])
def test_a_tool_is_told_its_uses_whatever_stands_beside_them(beside):
    """What is read as a tool is written as one, too."""
    added = {"type": "tool_addition", "tools": [{**SEARCH, **beside}]}
    body = message(messages=[{"role": "user", "content": [added]}])
    assert parse(MESSAGE, body).work.open_tools == ("web_search",)
    assert not parse(MESSAGE, rewrite(body, Changes(tool_calls=2))).work.open_tools


@pytest.mark.parametrize("found", [{"tools": [{"type": 5}]}, {"tools": [SEARCH]}, {"tool": {"type": 1}}])
def test_results_of_tools_at_the_provider_go_on_as_they_are(found):
    """Nothing in them is read, so that nothing in them is changed, or a fault."""
    block = {"type": "web_search_tool_result", "tool_use_id": "t", "content": [{"type": "web_search_result", **found}]}
    messages = [{"role": "assistant", "content": [block]}]
    sent = json.loads(rewrite(message(tools=[SEARCH], messages=messages), Changes(tool_calls=2)))
    assert (sent["messages"], sent["tools"]) == (messages, [{**SEARCH, "max_uses": 2}])


def test_a_plain_message():
    body = message()
    parsed = parse(MESSAGE, body)
    assert (parsed.model, parsed.max_output_tokens, parsed.max_fields) == ("claude-haiku-4-5", 100, ("max_tokens",))
    assert (parsed.stream, parsed.include_usage, parsed.choices, parsed.has_output) == (False, True, 1, True)
    assert parsed.parts is NO_PARTS
    assert parsed.work is NO_WORK
    assert parsed.bound_input_tokens(None) == len(body)


def test_what_a_message_may_say_beside_it():
    body = message(
        stream=True,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        metadata={"user_id": "user-7"},
        service_tier="auto",
        thinking={"type": "enabled", "budget_tokens": 50},
        max_tokens=0,
        unknown={"nested": [1]},
    )
    parsed = parse(MESSAGE, body)
    assert (parsed.stream, parsed.end_user, parsed.service_tier, parsed.max_output_tokens) == (
        True,
        "user-7",
        "auto",
        0,
    )
    assert parsed.work is NO_WORK
    assert not parsed.unbounded_input


def test_counting_needs_no_maximum_and_writes_nothing():
    parsed = parse(COUNT, json.dumps({"model": "m", "messages": SAY}).encode())
    assert (parsed.has_output, parsed.max_output_tokens) == (False, None)


SESSION = "91b9bf42-c0f9-4e34-82aa-86f9981e11de"


@TABLES.each("a_session_of_claude_code_is_no_user")
def test_a_session_of_claude_code_is_no_user(user_id, end_user, session):
    parsed = parse(MESSAGE, message(metadata={"user_id": user_id}))
    assert (parsed.end_user, parsed.session) == (end_user, session)


@TABLES.each("what_cant_be_read_in_one_way_is_refused")
def test_what_cant_be_read_in_one_way_is_refused(body, param):
    assert refused(body).param == param


def test_pictures_and_documents_are_bounded_by_the_row():
    body = message(messages=content({"type": "text", "text": "Look:"}, IMAGE, PAGE))
    parsed = parse(MESSAGE, body)
    assert (parsed.parts.images, parsed.parts.files) == (1, 1)
    assert parsed.parts.inline_bytes == 4_002
    assert parsed.bound_input_tokens({"image": 1_600, "file": 50_000}) == len(body) - 4_002 + 51_600
    assert parsed.bound_input_tokens({"image": 1_600}) is None


@TABLES.each("pictures_within_other_blocks_count")
def test_pictures_within_other_blocks_count(block):
    assert parse(MESSAGE, message(messages=content(block))).parts.images == 1


def system(*blocks: Any, **fields: Any) -> list[Any]:
    return [*SAY, {"role": "system", "content": list(blocks), **fields}]


def defined(tool: Any) -> dict[str, Any]:
    return {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool}}


REFERENCE = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "Read"}}


@pytest.mark.parametrize(
    "messages",
    [
        content({"type": "thinking", "thinking": "", "signature": "QUJD" * 5_000}),
        content({"type": "redacted_thinking", "data": "QUJD" * 5_000}),
        content({"type": "hologram", "id": "h1", "light": {"colour": [1, 2]}}),
        content({"type": "hologram", "content": [{"type": "new", "content": {"type": "newer"}}]}),
        content({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a" * 999}}),
        content({"type": "search_result", "source": "https://a.b", "title": "t", "content": []}),
        content({"type": "web_fetch_tool_result", "content": {"type": "web_fetch_tool_error", "error_code": "x"}}),
        content({"type": "code_execution_tool_result", "content": {"content": [{"type": "f", "file_id": "file_1"}]}}),
        content({"type": "compaction", "content": "Short.", "encrypted_content": "QUJD" * 999}),
        content({"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}, "trigger": None}),
        content({"type": "mid_conv_system", "content": [{"type": "text", "text": "a"}, REFERENCE]}),
        system({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, output_config={"effort": "low"}),
        system(REFERENCE, {"type": "tool_removal", "tool": {"type": "mcp_toolset_reference", "server_name": "s"}}),
        system({"type": "tool_addition", "tool_reference": {"type": "tool_reference", "tool_name": "Read"}}),
    ],
)
def test_what_is_in_the_body_is_bounded_by_its_bytes(messages):
    body = message(messages=messages)
    parsed = parse(MESSAGE, body)
    assert (parsed.parts, parsed.work, parsed.bound_input_tokens(None)) == (NO_PARTS, NO_WORK, len(body))


@pytest.mark.parametrize("source", [{"type": "base64", "data": "AAAA"}, {"type": "url", "url": "https://a.b"}])
def test_media_that_nobody_knows_are_bounded_by_the_window(source):
    assert parse(MESSAGE, message(messages=content({"type": "hologram", "source": source}))).unbounded_input
    warehouse = {"type": "image", "source": {"type": "warehouse", "name": "x"}}
    assert parse(MESSAGE, message(messages=content(warehouse))).unbounded_input


def test_a_document_that_was_fetched_is_a_document():
    fetched = {
        "type": "web_fetch_tool_result",
        "tool_use_id": "t",
        "content": {"type": "web_fetch_result", "content": PAGE},
    }
    assert parse(MESSAGE, message(messages=content(fetched))).parts.files == 1


@TABLES.each("what_has_no_bound_or_is_kept_elsewhere_is_refused")
def test_what_has_no_bound_or_is_kept_elsewhere_is_refused(fields):
    refused(message(**fields))


def test_searches_are_counted():
    work = parse(MESSAGE, message(tools=[{**SEARCH, "max_uses": 5}, {"name": "mine", "input_schema": {}}])).work
    assert (work.uses, work.searches, work.bounded_tools, work.outside) == (5, 5, ("web_search",), False)
    assert (work.open_tools, work.open_searches) == ((), 0)


def test_tools_that_say_no_bound_are_left_open():
    tools = [SEARCH, {"type": "web_fetch_20250910", "name": "f", "max_uses": None}, {"type": "time_travel_20300101"}]
    parsed = parse(MESSAGE, message(tools=tools))
    work = parsed.work
    assert work.open_tools == ("web_search", "web_fetch", "time_travel")
    assert (work.unknown_tools, work.open_searches, work.calls_are_shared) == (("time_travel",), 1, False)
    assert (work.uses, work.searches, work.most_calls, parsed.unbounded_input) == (0, 0, None, False)
    assert parsed.input_bound_tokens == len(message(tools=tools)) + TOOL_SYSTEM_TOKENS + 3 * SERVER_TOOL_TOKENS


@TABLES.each("a_loop_at_the_provider_has_so_many_turns")
def test_a_loop_at_the_provider_has_so_many_turns(fields):
    parsed = parse(MESSAGE, message(**fields))
    has_servers = "mcp_servers" in fields  # whose tools' definitions are no part of the body
    assert (parsed.work.uses, parsed.unbounded_input) == (LOOP_TURNS, has_servers)


def test_the_provider_s_own_prompt_for_tools_is_bounded():
    tools = [{"name": "mine", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]
    body = message(tools=tools)
    parsed = parse(MESSAGE, body)
    assert parsed.work is NO_WORK
    assert parsed.input_bound_tokens == len(body) + 2 * TOOL_SYSTEM_TOKENS
    schema = message(output_config={"format": {"type": "json_schema", "schema": {}}})
    assert parse(MESSAGE, schema).input_bound_tokens == len(schema) + TOOL_SYSTEM_TOKENS


def test_other_models_are_named_and_bounded():
    advisor = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5", "max_uses": 2}
    work = parse(MESSAGE, message(tools=[advisor])).work
    assert (work.models, work.calls, work.uses, work.open_tools) == (("claude-opus-5",), 2, 2, ())
    del advisor["max_uses"]
    work = parse(MESSAGE, message(tools=[advisor, SEARCH])).work
    assert (work.models, work.open_tools) == (("claude-opus-5",), ("advisor", "web_search"))
    assert (work.calls, work.most_calls) == (FURTHER_CALLS, FURTHER_CALLS)
    parsed = parse(MESSAGE, message(fallbacks=[{"model": "a", "max_tokens": 500}, {"model": "b", "speed": "fast"}]))
    assert (parsed.work.models, parsed.choices, parsed.max_output_tokens) == (("a", "b"), 3, 500)
    assert parsed.work.fast


def test_compaction_is_a_call_of_its_own_and_speed_a_dearer_one():
    assert parse(MESSAGE, message(context_management={"edits": [{"type": "compact_20260112"}]})).work.calls == 1
    assert parse(MESSAGE, message(context_management={"edits": [{"type": "expand_20300101"}]})).work.calls == 1
    for cleared in ("clear_tool_uses_20250919", "clear_thinking_20251015", "clear_dreams_20300101"):
        assert parse(MESSAGE, message(context_management={"edits": [{"type": cleared}]})).work is NO_WORK
    work = parse(MESSAGE, message(context_management={"edits": [{"type": "compact_20260112"}]}, tools=[SEARCH])).work
    assert (work.calls, work.most_calls) == (1 + FURTHER_CALLS, FURTHER_CALLS)
    assert parse(MESSAGE, message(speed="fast")).work.fast
    assert parse(MESSAGE, message(speed="standard")).work is NO_WORK


def test_tools_that_messages_define_count_as_those_of_the_request():
    added = {"type": "tool_addition", "tool": SEARCH}
    for block in (defined(SEARCH), added, {"type": "x", "tools": [SEARCH]}, {"type": "x", "tool_changes": [added]}):
        for messages in (system(block), content({"type": "tool_result", "content": [block]})):
            work = parse(MESSAGE, message(messages=messages)).work
            assert (work.open_tools, work.open_searches) == (("web_search",), 1)
    mine = message(messages=system(defined({"name": "mine", "input_schema": {}})))
    assert parse(MESSAGE, mine).work is NO_WORK
    assert parse(MESSAGE, mine).input_bound_tokens == len(mine) + TOOL_SYSTEM_TOKENS


def test_granted_calls_are_written_into_each_tool_that_says_none():
    advisor = {"type": "advisor_20260301", "name": "advisor", "model": "x", "max_uses": None}
    others = [
        {"name": "mine", "input_schema": {"n": 1.50}},
        {**SEARCH, "max_uses": 2},
        {"type": "code_execution_20250825", "name": "code_execution"},
        {"type": "time_travel_20300101", "name": "x"},
        {"type": "custom", "name": "web_search"},
    ]
    messages = [*content({"type": "text", "text": "a"}), *system(defined(SEARCH), REFERENCE, defined(others[0]))[1:]]
    body = message(tools=[*others, SEARCH, advisor], messages=messages)
    sent = json.loads(rewrite(body, Changes(tool_calls=3)))
    assert sent["tools"] == [*others, {**SEARCH, "max_uses": 3}, {**advisor, "max_uses": 3}]
    assert sent["messages"][1]["content"] == [defined({**SEARCH, "max_uses": 3}), REFERENCE, defined(others[0])]
    assert {**sent, "tools": 0, "messages": 0} == {**json.loads(body), "tools": 0, "messages": 0}
    assert b'{"name": "mine", "input_schema": {"n": 1.5}}' in rewrite(body, Changes(tool_calls=3))  # spaces within stay


def test_granted_calls_are_written_wherever_a_tool_counts():
    granted = {**SEARCH, "max_uses": 3}
    for make in (
        lambda tool: {"messages": content({"type": "tool_addition", "tool": tool})},
        lambda tool: {"messages": content({"type": "tool_addition", "tool": {**tool, "definition": {"x": 1}}})},
        lambda tool: {"messages": content({"type": "tool_result", "content": [defined(tool)]})},
        lambda tool: {"messages": content({"type": "x", "source": {"type": "content", "content": [defined(tool)]}})},
        lambda tool: {"messages": content({"type": "x", "tool_changes": [{"type": "add", "tool": [tool]}]})},
        lambda tool: {"messages": content({"type": "x", "tools": [tool]})},
        lambda tool: {"system": [{"type": "text", "text": "a"}, defined(tool)]},
        lambda tool: {"tools": [tool]},
    ):
        body = message(**make(SEARCH))
        assert parse(MESSAGE, body).work.open_tools == ("web_search",)
        assert json.loads(rewrite(body, Changes(tool_calls=3))) == json.loads(message(**make(granted)))


def test_a_body_without_such_tools_is_sent_as_it_is():
    for body in (message(), message(tools=[{"type": "time_travel_20300101"}], messages=system(REFERENCE))):
        assert rewrite(body, Changes(tool_calls=3)) is body


def test_what_is_rewritten():
    body = message()
    assert rewrite(body, Changes()) is body
    sent = json.loads(rewrite(body, Changes(model="other", max_output_tokens=7)))
    assert sent == {**json.loads(body), "model": "other", "max_tokens": 7}
    assert json.loads(rewrite(body, Changes(max_output_tokens=700)))["max_tokens"] == 100


def test_whose_requests_these_are():
    dialect = AnthropicDialect()
    assert dialect.owns("/v1/messages/batches", {})
    assert dialect.owns("/v1/models", {"anthropic-version": "2023-06-01"})
    assert not dialect.owns("/v1/models", {})


def test_the_tokens_of_the_input():
    body = message(
        system="Be brief.",
        messages=content(
            {"type": "text", "text": "Look:"}, IMAGE, {"type": "tool_use", "name": "f", "input": {"a": 1}}
        ),
        tools=[{"name": "mine", "input_schema": {}}],
    )
    seen = []

    def count(text):
        seen.append(text)
        return 100

    tokens, inline = AnthropicDialect().input_tokens(body, count)
    assert sorted(seen) == sorted(["Be brief.", "Look:", "f", '{"a":1}', '[{"name":"mine","input_schema":{}}]'])
    assert 500 < tokens < 600
    assert [(each.kind, each.size_bytes) for each in inline] == [("image", 4_000)]
