"""What sent a request is recorded: its session, its tool; bounded, and never a word of the client's own for a tool."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.config.defaults import SESSION_HEADERS
from gateway.proxy.senders import MOST_CHARACTERS, NOBODY, TOOLS, Sender, Senders, tool_of
from tests.gateway.conftest import Customer, chat
from tests.support.gateways import ask, fetch, refusal

SENDERS = Senders(SESSION_HEADERS)
CLAUDE = {
    "User-Agent": "claude-cli/2.1.328 (external, sdk-cli)",
    "x-claude-code-session-id": "ff37265b-fb4b-4c2f-b40f-964da5ca7bce",
    "x-claude-code-agent-id": "a7bce",
    "x-claude-code-parent-agent-id": "a4b4c",
}


@pytest.mark.parametrize(
    ("user_agent", "tool", "version"),
    [
        ("codex_exec/0.169.0 (Debian 12.0.0; x86_64) xterm (codex_exec; 0.169.0)", "codex", "0.169.0"),
        ("codex_cli_rs/0.98.0-alpha.1 (Mac OS 15.0)", "codex", "0.98.0-alpha.1"),
        ("claude-cli/2.1.328 (external, cli)", "claude-code", "2.1.328"),
        ("GeminiCLI-tui/0.61.0/gemini-2.5-pro (linux; x64; terminal)", "gemini-cli", "0.61.0"),
        ("GeminiCLI/0.9.0 (linux; x64)", "gemini-cli", "0.9.0"),
        ("opencode/1.18.33 ai-sdk/provider-utils/4.0.23 runtime/bun/1.3.14", "opencode", "1.18.33"),
        ("ai-sdk/openai-compatible/3.0.37 ai-sdk/provider-utils/5.0.30", "ai-sdk", "3.0.37"),
        ("QwenCode/0.24.4 (linux; x64)", "qwen-code", "0.24.4"),
        ("OpenAI/Python 2.20.0", "openai-python", "2.20.0"),
        ("AsyncOpenAI/Python 2.20.0", "openai-python", "2.20.0"),
        ("Anthropic/JS 1.12.0", "anthropic-js", "1.12.0"),
        ("Agents/Python 0.24.0", "openai-agents", "0.24.0"),
        ("curl/8.5.0", "curl", "8.5.0"),
        ("codex_exec", "codex", None),
        ("codex/" + "9" * 99, "codex", None),
        ("node-fetch", None, None),
        ("Mozilla/5.0 (X11; Linux x86_64)", None, None),
        ("", None, None),
    ],
)
def test_tools_are_known_by_what_they_call_themselves(user_agent, tool, version):
    assert tool_of(user_agent, "") == (tool, version)


def test_codex_is_known_by_its_originator():
    assert tool_of("reqwest/0.12", "codex_vscode") == ("codex", "0.12")


@pytest.mark.parametrize(
    ("headers", "in_body", "session"),
    [
        ({"X-Metergate-Session": "own", **CLAUDE}, "body", "own"),
        (CLAUDE, "body", CLAUDE["x-claude-code-session-id"]),
        ({"session-id": "s", "thread-id": "t"}, None, "s"),
        ({"session_id": "s", "thread-id": "t"}, None, "s"),
        ({"thread-id": "t"}, None, "t"),
        ({}, "body", "body"),
        ({"X-Metergate-Session": "\u00e9", "thread-id": "t"}, None, "t"),
        ({"X-Metergate-Session": " "}, "\u00e9", None),
        ({"thread-id": "t" * 999}, None, "t" * MOST_CHARACTERS),
    ],
)
def test_the_first_name_of_a_session_counts(headers, in_body, session):
    assert SENDERS.of(CIMultiDict(headers), in_body).session == session


def test_a_request_that_says_nothing_is_nobody_s():
    assert SENDERS.of(CIMultiDict({"Authorization": "Bearer x"}), None) is NOBODY


NAMES = st.sampled_from([*CLAUDE, *SESSION_HEADERS, "X-Metergate-Session", "originator"])


@given(st.dictionaries(NAMES, st.text(max_size=400)), st.none() | st.text(max_size=400))
def test_whatever_clients_send_names_are_bounded(headers, in_body):
    sender = SENDERS.of(CIMultiDict(headers), in_body)
    assert sender.tool is None or sender.tool in TOOLS.values()
    for name in (sender.session, sender.agent, sender.parent_agent, sender.tool_version):
        assert name is None or (0 < len(name) <= MOST_CHARACTERS and name.isascii() and name.isprintable())


async def test_the_event_says_what_sent_the_request(gateway):
    customer = await gateway.customer()
    assert (await ask(customer, chat(), headers={"User-Agent": "nothing known"})).status == 200
    sent = await ask(customer, chat(), headers=CLAUDE)
    assert sent.status == 200
    event = (await events(customer, session=CLAUDE["x-claude-code-session-id"]))[0]
    assert event["id"] == sent.headers["x-request-id"]
    assert {name: event[name] for name in Sender.__struct_fields__} == {
        "session": CLAUDE["x-claude-code-session-id"],
        "agent": "a7bce",
        "parent_agent": "a4b4c",
        "tool": "claude-code",
        "tool_version": "2.1.328",
    }
    assert [each["id"] for each in await events(customer, tool="claude-code")] == [event["id"]]
    assert await events(customer, tool="codex") == []
    assert [each["tool"] for each in await events(customer)] == ["claude-code", None]
    one = await fetch(customer.get(f"/api/account/usage/events/{event['id']}"))
    assert (one.json["session"], one.json["tool"]) == (event["session"], "claude-code")
    csv = await fetch(customer.get("/api/account/usage/events", headers={"Accept": "text/csv"}))
    names, first, _ = (line.split(",") for line in csv.body.decode().splitlines())
    assert first[names.index("tool_version")] == "2.1.328"


async def test_a_session_of_claude_code_s_body_is_recorded_as_one(gateway):
    customer = await gateway.customer()
    metadata = {"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": "of the body"})}
    body = {**chat(), "max_tokens": 16, "metadata": metadata}
    assert (await ask(customer, body, path="/v1/messages")).status == 200
    [event] = await events(customer)
    assert (event["session"], event["end_user"]) == ("of the body", None)


async def events(customer: Customer, **query: str) -> list[dict[str, Any]]:
    await customer.gateway.flush()
    found: list[dict[str, Any]] = (await fetch(customer.get("/api/account/usage/events", params=query))).json["data"]
    return found


async def test_who_uses_a_tool_is_told_the_setting_that_asks_for_less(gateway):
    """Claude Code on the free plan: its user sees no `max_tokens`, and what is too much for the day is refused."""
    small = await gateway.customer(quotas=[{"window": "day", "metric": "tokens", "limit": 100_000}])
    refused = await ask(small, chat(max_completion_tokens=128_000), headers=CLAUDE)
    never = refusal(refused, 429, "quota_exceeded")["message"]
    assert "lower max_completion_tokens (CLAUDE_CODE_MAX_OUTPUT_TOKENS) to 99,8" in never
    customer = await gateway.customer(quotas=[{"window": "day", "metric": "tokens", "limit": 128_300}])
    assert (await ask(customer, chat("word " * 300, max_completion_tokens=100))).status == 200
    setting = "max_completion_tokens (CLAUDE_CODE_MAX_OUTPUT_TOKENS)"
    for headers, shown in ((CLAUDE, setting), ({}, "max_completion_tokens")):
        refused = await ask(customer, chat(max_completion_tokens=128_000), headers=headers)
        told = refusal(refused, 429, "quota_exceeded")["message"]
        assert re.search(rf"Lower {re.escape(shown)} to 12\d,\d{{3}} tokens or less: that much fits now\.", told), told
