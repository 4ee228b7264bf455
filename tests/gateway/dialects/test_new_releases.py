"""What a new release of a client may send: fields, tools, features and blocks that nobody here has heard of never make
a request that is served one that is refused. Each tool counts wherever a request may have it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.dialects.anthropic.dialect import MESSAGE, METERING_FIELDS, parse, rewrite
from gateway.dialects.anthropic.work import CAPPED_TOOLS, CLIENT_TOOLS, LOOP_TOOLS, LOOP_TURNS, REFUSED_TOOLS
from gateway.dialects.base import Changes
from gateway.dialects.body import DEFAULT_BOUNDS, BadRequest, folded
from gateway.dialects.declared import DEFAULT_BETAS, Betas
from gateway.dialects.facts import Work
from gateway.dialects.gemini.request import REQUEST
from tests.gateway.dialects.anthropic.bodies import SAY, message
from tests.gateway.dialects.gemini.support import asked, parsed, with_part

BETAS = Betas(DEFAULT_BETAS)
KNOWN = {folded(name) for name in (*METERING_FIELDS, *REQUEST.spelled, "type", "source", "content", "file_id")}
KNOWN |= {folded(name) for name in ("tool", "tools", "tool_changes", "text", "cache_control", "data", "uri", "url")}
NAMES = st.from_regex(r"[a-z][a-z_]{2,20}[a-z]", fullmatch=True).filter(lambda name: folded(name) not in KNOWN)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=3).filter(
    lambda each: len({folded(name) for name in each}) == len(each)
)
KINDS = NAMES.map(lambda name: f"{name}_20300101")


@given(fields=OBJECTS, kinds=st.lists(KINDS, max_size=3), block=OBJECTS, within=OBJECTS, features=st.lists(KINDS))
def test_anthropic_s_messages_stay_served(fields, kinds, block, within, features):
    content = [{"type": "text", "text": "Hello"}, {**block, "type": "brand_new"}]
    tools = [{**within, "type": kind} for kind in kinds]
    body = message(**fields, tools=tools, messages=[{**within, "role": "user", "content": content}])
    found = BETAS.applied(parse(MESSAGE, body), CIMultiDict({"anthropic-beta": ",".join(features)}))
    assert (found.unbounded_input, len(found.work.unknown_tools)) == (False, len(kinds))
    assert found.work.open_tools == found.work.unknown_tools
    assert rewrite(body, Changes(tool_calls=3)) is body


@given(fields=OBJECTS, tools=OBJECTS, part=OBJECTS, within=OBJECTS)
def test_gemini_s_requests_stay_served(fields, tools, part, within):
    given_tools = {name: value if value is not None else {} for name, value in tools.items()}
    found = parsed(asked(**fields, tools=[given_tools], contents=[{**within, "parts": [{"text": "a", **part}]}]))
    assert (found.unbounded_input, found.work.unknown_tools) == (False, tuple(sorted(given_tools)))
    assert parsed(with_part(**part)).max_output_tokens is None


def typed(kind: str) -> dict[str, Any]:
    return {"type": f"{kind}_20260101", "name": "x", **({"model": "claude-opus-5"} if kind == "advisor" else {})}


def in_tools(tool: Any) -> bytes:
    return message(tools=[tool])


def in_system_message(tool: Any) -> bytes:
    added = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool}}
    return message(messages=[*SAY, {"role": "system", "content": [added]}])


def in_system_block(tool: Any) -> bytes:
    added = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool}}
    return message(messages=[{"role": "user", "content": [{"type": "mid_conv_system", "content": [added]}]}])


def in_tool_result(tool: Any) -> bytes:
    block = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_addition", "tool": tool}]}
    return message(messages=[{"role": "user", "content": [block]}])


def in_new_block(tool: Any) -> bytes:
    return message(messages=[{"role": "user", "content": [{"type": "inline_tools", "tools": [tool]}]}])


def in_system(tool: Any) -> bytes:
    return message(system=[{"type": "tool_addition", "tool": tool}])


PLACES = [in_tools, in_system_message, in_system_block, in_tool_result, in_new_block, in_system]
NEW = "hologram"
WORK = {
    **{kind: Work() for kind in CLIENT_TOOLS},
    **{kind: Work(uses=LOOP_TURNS, bounded_tools=(kind,)) for kind in LOOP_TOOLS},
    "mcp_toolset": Work(outside=True, uses=LOOP_TURNS, bounded_tools=("mcp_toolset",)),
    "web_search": Work(open_tools=("web_search",), calls_are_shared=False, open_searches=1),
    "web_fetch": Work(open_tools=("web_fetch",), calls_are_shared=False),
    "advisor": Work(open_tools=("advisor",), calls_are_shared=False, calls=1, most_calls=1, models=("claude-opus-5",)),
    NEW: Work(open_tools=(NEW,), unknown_tools=(NEW,), calls_are_shared=False),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", sorted({*WORK, *REFUSED_TOOLS}))
def test_each_tool_counts_in_each_place(kind, place):
    tool = typed(kind)
    body = place(tool)
    if kind in REFUSED_TOOLS:
        with pytest.raises(BadRequest, match=kind):
            parse(MESSAGE, body, DEFAULT_BOUNDS)
        return
    assert parse(MESSAGE, body).work == WORK[kind]
    if place is in_system:
        return  # which no provider takes: there is nothing to write
    sent = rewrite(body, Changes(tool_calls=2))
    if kind in CAPPED_TOOLS:
        assert json.loads(sent) == json.loads(place({**tool, "max_uses": 2}))
        assert not parse(MESSAGE, sent).work.open_tools
    else:
        assert sent is body


def test_the_table_has_every_type():
    assert WORK.keys() - {NEW} == CLIENT_TOOLS | LOOP_TOOLS | CAPPED_TOOLS
