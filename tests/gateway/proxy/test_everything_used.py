"""Providers that use whatever a request leaves them: every call that is granted, all that each may bring, all output.

Several keys of one strict account ask at the same time, for all that it has. It is never below its limit, the ledger
has what the provider reported, and each answer says how many calls were granted.
"""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from billing.money import format_usd, parse_usd
from gateway.config.providers import ProviderConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from gateway.dialects.anthropic.work import SERVER_TOOL_TOKENS, TOOL_SYSTEM_TOKENS
from tests.gateway.conftest import Change, Customer, Gateway
from tests.gateway.dialects.anthropic.bodies import answer, event, message
from tests.gateway.dialects.openai_responses.bodies import event as response_event
from tests.gateway.dialects.openai_responses.bodies import response
from tests.gateway.proxy.test_anthropic import MESSAGES, VERSION, scripted
from tests.support.answering import PROVIDER_KEY, SSE, until
from tests.support.gateways import INPUT, OUTPUT, Fetched, fetch, held

HEADER = "x-metergate-granted-tool-calls"
CALL_TOKENS = 16_384
SEARCH_NANO = 10_000_000
KEYS = 4
ASKING = 32
# claude-haiku-4-5 and gpt-4o-mini: nano-USD a token, and the context window.
HAIKU, HAIKU_WINDOW = {"input": 1_000, "output": 5_000, "write": 1_250, "hour": 2_000}, 200_000
MINI_WINDOW = 128_000


def read_by(first: int, uses: int, window: int, *, windows: bool) -> int:
    """The most input of so many rounds."""
    if windows:
        return window * (uses + 1) if uses else first
    return sum(min(first + CALL_TOKENS * number, window) for number in range(uses + 1))


class Greedy:
    """A provider that uses everything, and keeps what it reported, in nano-USD, by the number of the request."""

    def __init__(self, *, windows: bool = False) -> None:
        self.windows = windows
        self.reported: dict[str, int] = {}
        self.granted: dict[str, Any] = {}
        self._failed: set[bytes] = set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if body not in self._failed:  # every request is tried a second time, with the same calls granted
            self._failed.add(body)
            return web.Response(status=503)
        sent = json.loads(body)
        made = self._messages(sent, body) if request.path.endswith("/messages") else self._responses(sent)
        events, whole = made
        if not sent.get("stream"):
            return web.json_response(whole)
        answering = web.StreamResponse(headers=SSE)
        await answering.prepare(request)
        for each in events:
            await answering.write(each)
        return answering

    def _messages(self, sent: dict[str, Any], body: bytes) -> tuple[list[bytes], dict[str, Any]]:
        tools = sent.get("tools", [])
        uses = sum(tool.get("max_uses", 0) for tool in tools)
        searches = sum(tool.get("max_uses", 0) for tool in tools if tool["type"].startswith("web_search"))
        first = len(body) - len(b',"max_uses": 10') * len(tools) + (TOOL_SYSTEM_TOKENS if tools else 0)
        first += SERVER_TOOL_TOKENS * len(tools)
        read, wrote = read_by(first, uses, HAIKU_WINDOW, windows=self.windows), sent["max_tokens"]
        answers = 1 + len(sent.get("fallbacks", []))
        written = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": read}
        usage: dict[str, Any] = {
            "input_tokens": 0,
            "cache_creation_input_tokens": read,
            "cache_creation": written,
            "output_tokens": wrote,
            "server_tool_use": {"web_search_requests": searches},
        }
        if answers > 1:
            counts = {name: usage[name] for name in ("input_tokens", "cache_creation_input_tokens", "output_tokens")}
            counts["cache_creation"] = written
            usage["iterations"] = [
                {"type": "message", "model": sent["model"], **counts},
                *({"type": "fallback_message", "model": each["model"], **counts} for each in sent["fallbacks"]),
            ]
        name = sent["metadata"]["user_id"]
        nano = answers * (read * HAIKU["hour"] + wrote * HAIKU["output"]) + searches * SEARCH_NANO
        self.reported[name] = nano
        self.granted[name] = {tool.get("max_uses") for tool in tools}
        whole = answer(usage=usage)
        begun = {**answer(), "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
        begun["usage"].pop("iterations", None)
        events = [
            event("message_start", message=begun),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"}),
            event("content_block_stop", index=0),
            event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage),
            event("message_stop"),
        ]
        return events, whole

    def _responses(self, sent: dict[str, Any]) -> tuple[list[bytes], dict[str, Any]]:
        tools = json.dumps([sent.get("tools"), sent["input"]])
        hosted = any(name in tools for name in ('"web_search"', '"telepathy"', '"mcp"'))
        uses = sent.get("max_tool_calls", 0) if hosted else 0
        searches = uses if '"web_search"' in tools else 0
        name = sent["metadata"]["number"]
        _, asked, _ = asked_of("responses", int(name[1:]))  # bounds that the gateway adds are not read by a model
        read = read_by(len(asked), uses, MINI_WINDOW, windows=self.windows)
        wrote = sent.get("max_output_tokens", 16_384)
        usage = {"input_tokens": read, "output_tokens": wrote, "total_tokens": read + wrote}
        self.reported[name] = read * INPUT + wrote * OUTPUT + searches * SEARCH_NANO
        self.granted[name] = sent.get("max_tool_calls")
        items = [{"type": "web_search_call", "id": f"ws_{number}", "status": "completed"} for number in range(searches)]
        whole = response(id=f"resp_{name}", service_tier="default", output=items, usage=usage, model="gpt-4o-mini")
        begun = {**whole, "status": "in_progress", "usage": None, "output": []}
        events = [response_event("response.created", response=begun)]
        events += [response_event("response.output_item.done", item=item) for item in items]
        events.append(response_event("response.completed", response=whole))
        return events, whole


SEARCH = {"type": "web_search_20250305", "name": "web_search"}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
UNKNOWN = {"type": "hologram_20300101", "name": "x"}
MESSAGES_ASKED = (
    {"tools": [SEARCH]},
    {"tools": [SEARCH], "stream": True},
    {"tools": [{**SEARCH, "max_uses": 2}]},
    {"tools": [SEARCH, FETCH], "stream": True},
    {"tools": [SEARCH, UNKNOWN]},
    {"tools": [SEARCH], "fallbacks": [{"model": "claude-haiku-4-5"}]},
    {"tools": [{**SEARCH, "max_uses": None}, {**FETCH, "max_uses": 1}], "fallbacks": [{"model": "claude-haiku-4-5"}]},
    {},
)
ONLY = {"type": "web_search"}
RESPONSES_ASKED = (
    {"tools": [ONLY]},
    {"tools": [ONLY], "stream": True},
    {"tools": [ONLY], "max_tool_calls": 2},
    {"tools": [{"type": "namespace", "name": "n", "tools": [ONLY, {"type": "telepathy"}]}], "stream": True},
    {"input": [{"role": "user", "content": "Hi"}, {"type": "additional_tools", "tools": [ONLY]}]},
    {"input": [{"role": "user", "content": "Hi"}, {"type": "tool_search_output", "tools": [ONLY]}], "stream": True},
    {"tools": [{"type": "mcp", "server_label": "s", "server_url": "https://s"}], "max_output_tokens": 50},
    {},
)


def asked_of(dialect: str, number: int) -> tuple[str, bytes, dict[str, str]]:
    if dialect == "messages":
        fields = MESSAGES_ASKED[number % len(MESSAGES_ASKED)]
        return MESSAGES, message(**fields, metadata={"user_id": f"u{number}"}), VERSION
    fields = RESPONSES_ASKED[number % len(RESPONSES_ASKED)]
    body = {"model": "gpt-4o-mini", "input": "Hi", "metadata": {"number": f"u{number}"}, **fields}
    return "/v1/responses", json.dumps(body).encode(), {}


async def another_key(gateway: Gateway, customer: Customer) -> str:
    made = await gateway.admin("POST", "/keys", {"account_id": customer.account_id, "name": "another"})
    return str(made["key"])


@pytest.mark.parametrize("strict_tools", [False, True])
@pytest.mark.parametrize(("dialect", "usd"), [("messages", "3.00"), ("responses", "0.40")])
async def test_no_account_goes_below_its_limit(gateway_of, dialect, usd, strict_tools):
    provider = Greedy(windows=strict_tools)
    usd = format_usd(parse_usd(usd) * (8 if strict_tools else 1))
    trying = {"retries": 1, "retry_backoff_ms": 1}
    gateway = await gateway_of(provider.serve, at=scripted_both, strict_tools=strict_tools, **trying)
    customer = await gateway.customer(usd)
    keys = [customer.key, *[await another_key(gateway, customer) for _ in range(KEYS - 1)]]

    async def ask(number):
        path, body, headers = asked_of(dialect, number)
        headers = {**headers, "Authorization": f"Bearer {keys[number % KEYS]}"}
        return await fetch(gateway.session.post(gateway.url + path, data=body, headers=headers))

    answers = {f"u{number}": each for number, each in enumerate(await asyncio.gather(*map(ask, range(ASKING))))}
    left_nano = await balance_nano(gateway, customer)
    statuses = Counter(each.status for each in answers.values())
    assert statuses.keys() <= {200, 402, 429}, statuses
    assert left_nano >= 0, (statuses, left_nano)
    assert statuses[200] > KEYS, [each.body for each in answers.values()][:3]
    assert statuses[200] < ASKING, (statuses, left_nano)
    assert {name for name, each in answers.items() if each.status == 200} == provider.reported.keys()
    assert parse_usd(usd) - left_nano == sum(provider.reported.values())
    events = await customer.events()
    assert sorted(parse_usd(each["charge_usd"]) for each in events) == sorted(provider.reported.values())
    assert not any(each["estimated"] for each in events)
    for name, each in answers.items():
        if each.status == 200:
            assert not each.cut
            check_header(dialect, int(name[1:]), each, provider.granted[name])


def check_header(dialect: str, number: int, fetched: Fetched, granted: Any) -> None:
    """The number that the client is told is the one that the provider was sent, and none where nothing was granted."""
    told = fetched.headers.get(HEADER)
    if dialect == "messages":
        tools = MESSAGES_ASKED[number % len(MESSAGES_ASKED)].get("tools", [])
        left_open = [tool for tool in tools if tool.get("max_uses") is None and tool is not UNKNOWN]
        assert (told is not None) == bool(left_open)
        assert told is None or int(told) in granted
    elif RESPONSES_ASKED[number % len(RESPONSES_ASKED)].get("max_tool_calls") or granted is None:
        assert told is None
    else:
        assert told == str(granted)


async def balance_nano(gateway: Gateway, customer: Customer) -> int:
    async def nothing_held() -> bool:
        return not gateway.runtime.engine.holds.live and not await held(gateway)

    await until(nothing_held)
    balance = await customer.balance()
    assert balance["held_usd"] == "0.00"
    return parse_usd(balance["balance_usd"])


def scripted_both(url: str) -> Change:
    """Settings whose providers of both APIs are here."""

    def change(settings: Settings) -> Settings:
        own = ProviderConfig("openai", "openai", url, Secret(PROVIDER_KEY))
        return replace(settings, providers={**settings.providers, "openai": own})

    return scripted(url, change)
