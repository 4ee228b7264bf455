"""docs/providers.md says of each endpoint and field what the readers make of it."""

import re
from pathlib import Path
from typing import Any

import pytest

from gateway.dialects.registry import make_dialects
from gateway.dialects.structure import StructureBounds
from tests.gateway.dialects.answers import Answer, by, chat, gemini, message, response
from tests.gateway.dialects.readers import READERS

PAGE = Path(__file__).parents[3].joinpath("docs", "providers.md").read_text("utf-8")
ALIASES = ("/openai/", "/azure/", "/v1/models/")
"""Beginnings of paths that lead to an endpoint by another name."""


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    table = PAGE.split(f"\n## {heading}\n")[1].split("|---", 1)[1].split("\n\n", 1)[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]


def test_the_page_lists_every_endpoint_that_is_charged() -> None:
    made = {
        f"{endpoint.method} {endpoint.path}"
        for dialect in make_dialects(StructureBounds()).all
        for endpoint in dialect.endpoints
        if not endpoint.free and not endpoint.path.startswith(ALIASES)
    }
    assert {cells[0].strip("`") for cells in rows("Endpoints")} == made


FIELDS = [
    (field, re.split(r"[ ,;]", cells[1])[0])
    for cells in rows("OpenAI's chats, completions, embeddings, moderations")
    for field in re.findall(r"`([\w.]+)`", cells[0])
]


@pytest.mark.parametrize(("field", "price_class"), FIELDS)
def test_a_field_becomes_the_class_that_the_page_says(field: str, price_class: str) -> None:
    usage: dict[str, Any] = chat(100, 50)
    *outer, name = field.split(".")
    into = usage.setdefault(outer[0], {}) if outer else usage
    into[name] = into.get(name, 7)
    reported = READERS["chat"](Answer("", "", "", "chat", usage).text)
    assert reported is not None
    assert reported.usage.by_class()[price_class] == (7 if into[name] == 7 else into[name])
    assert reported.doubts == ()


def test_the_page_names_enough_fields() -> None:
    assert len(FIELDS) >= 15


def searched(count: int) -> list[dict[str, Any]]:
    return [{"type": "web_search_call", "status": "completed", "action": {"type": "search"}}] * count


def grounded(**queries: list[str]) -> dict[str, Any]:
    return {"candidates": [{"finishReason": "STOP", "groundingMetadata": queries}]}


APIS: dict[str, tuple[str, dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]]] = {
    "OpenAI's Responses API": (
        "responses",
        {
            "input_tokens": (response(100, 50), {}, {"input": 100}),
            "input_tokens_details.cached_tokens": (response(100, 50, cached=7), {}, {"cached_input": 7, "input": 93}),
            ".cache_write_tokens": (response(100, 50, cache_write_tokens=7), {}, {"cache_write": 7, "input": 93}),
            "output_tokens": (response(100, 50), {}, {"output": 50}),
            "output_tokens_details.reasoning_tokens": (response(9, 50, 0, 7), {}, {"reasoning": 7, "output": 43}),
            "tool_usage.web_search.num_requests": (
                *(response(9, 5), {"tool_usage": {"web_search": {"num_requests": 7}}, "output": searched(2)}),
                {"search": 7},
            ),
            "web_search_call": (response(9, 5), {"output": searched(2)}, {"search": 2}),
        },
    ),
    "Anthropic's API": (
        "messages",
        {
            "input_tokens": (message(100, 50, read=7), {}, {"input": 100, "cached_input": 7}),
            "cache_read_input_tokens": (message(100, 50, read=7), {}, {"cached_input": 7}),
            "cache_creation_input_tokens": (
                *({"input_tokens": 9, "cache_creation_input_tokens": 7, "output_tokens": 5}, {}),
                {"cache_write": 7},
            ),
            "cache_creation.ephemeral_5m_input_tokens": (message(100, 50, minutes=7), {}, {"cache_write": 7}),
            "cache_creation.ephemeral_1h_input_tokens": (message(100, 50, hour=7), {}, {"cache_write_1h": 7}),
            "output_tokens": (message(100, 50), {}, {"output": 50}),
            "output_tokens_details.thinking_tokens": (
                *(message(100, 50, output_tokens_details={"thinking_tokens": 7}), {}),
                {"reasoning": 7, "output": 43},
            ),
            "server_tool_use.web_search_requests": (
                *(message(9, 5, server_tool_use={"web_search_requests": 7}), {}),
                {"search": 7},
            ),
            "container": (message(9, 5), {"container": {"id": "c"}}, {"call.code_execution": 1}),
            "service_tier": (message(9, 5, service_tier="batch"), {}, {"processing": "batch"}),
            "speed": (message(9, 5, speed="fast"), {}, {"speed": "fast"}),
            "inference_geo": (message(9, 5, inference_geo="us"), {}, {"region": "us"}),
            "iterations[]": (
                *(message(9, 5, iterations=[{"type": "compaction", "input_tokens": 90, "output_tokens": 1}]), {}),
                {"input": 90, "output": 1},
            ),
        },
    ),
    "Gemini's own API": (
        "gemini",
        {
            "promptTokenCount": (gemini(100, 50), {}, {"input": 100}),
            "cachedContentTokenCount": (gemini(100, 50, cachedContentTokenCount=7), {}, {"cached_input": 7}),
            "cacheTokensDetails[]": (
                gemini(
                    *(100, 50),
                    cachedContentTokenCount=9,
                    promptTokensDetails=by(TEXT=50, AUDIO=50),
                    cacheTokensDetails=by(TEXT=2, AUDIO=7),
                ),
                *({}, {"cached_input": 2, "cached_audio_input": 7}),
            ),
            "promptTokensDetails[]": (
                *(gemini(100, 50, promptTokensDetails=by(AUDIO=7, IMAGE=8, VIDEO=9, DOCUMENT=1)), {}),
                {"audio_input": 7, "image_input": 8, "video_input": 9, "input": 76},
            ),
            "candidatesTokenCount": (gemini(100, 50), {}, {"output": 50}),
            "candidatesTokensDetails[]": (
                *(gemini(100, 50, candidatesTokensDetails=by(AUDIO=7, IMAGE=8, VIDEO=9)), {}),
                {"audio_output": 7, "image_output": 8, "video_output": 9},
            ),
            "thoughtsTokenCount": (gemini(100, 50, thoughts=7), {}, {"reasoning": 7, "output": 50}),
            "toolUsePromptTokenCount": (gemini(100, 50, tools=7), {}, {"input": 107}),
            "totalTokenCount": (gemini(100, 50, totalTokenCount=157), {}, {"reasoning": 7}),
            "groundingMetadata.webSearchQueries": (
                *(gemini(9, 5), grounded(webSearchQueries=["a", "", "b"])),
                {"search": 2},
            ),
            ".imageSearchQueries": (gemini(9, 5), grounded(imageSearchQueries=["a"]), {"search": 1}),
            "serviceTier": (gemini(9, 5, serviceTier="PRIORITY"), {}, {"service_tier": "priority"}),
            "trafficType": (gemini(9, 5, trafficType="ON_DEMAND_FLEX"), {}, {"service_tier": "on_demand_flex"}),
        },
    ),
}


@pytest.mark.parametrize("heading", APIS)
def test_the_fields_of_each_api_become_what_the_page_says(heading: str) -> None:
    api, cases = APIS[heading]
    documented = {name: cells[1] for cells in rows(heading) for name in re.findall(r"`([\w.]+(?:\[\])?)`", cells[0])}
    assert documented.keys() == cases.keys()
    for field, (usage, more, wanted) in cases.items():
        reported = READERS[api](Answer("", "", "", api, usage, more).text)
        assert reported is not None, field
        conditions = {name: getattr(reported, name) for name in ("service_tier", "processing", "speed", "region")}
        found = {**reported.total.by_class(), **conditions}
        assert {name: found.get(name) for name in wanted} == wanted, field
        named = [name for name in wanted if name not in conditions and field != "iterations[]"]
        assert not named or re.search(rf"\b{re.escape(named[0])}\b", documented[field]), (field, documented[field])
