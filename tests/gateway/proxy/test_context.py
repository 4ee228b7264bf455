"""What a request is recorded as."""

from typing import Any

import msgspec

from billing.ledger.debits import LAYOUT
from billing.usage import Usage
from gateway.config.defaults import EstimateSettings
from gateway.dialects.openai.dialect import CHAT, parse
from gateway.proxy.candidates import Route
from gateway.proxy.context import RequestContext, Terms
from gateway.proxy.estimate import Charge
from gateway.proxy.senders import Sender
from tests.billing.holds.test_cache import PRINCIPAL
from tests.gateway.proxy.estimates import priced


def test_every_value_of_a_debit_stands_at_its_name():
    candidate = priced(model="its name there")
    body = b'{"model":"m","messages":[],"user":"end user","stream":true}'
    given: dict[str, Any] = {
        "request_id": "request",
        "endpoint": "/v1/chat/completions",
        "principal": PRINCIPAL,
        "parsed": parse(CHAT, body),
        "route": candidate,
        "started_s": 1.0,
        "client_request_id": "client's",
        "terms": Terms(PRINCIPAL, Route("m", (candidate,)), candidate, EstimateSettings()),
        "tags": '{"a":"b"}',
        "status": 201,
        "upstream_request_id": "provider's",
        "first_byte_s": 1.25,
        "sender": Sender("session", "agent", "parent", "codex", "0.169.0"),
    }
    unused = dict.fromkeys(RequestContext.__struct_fields__[:17])
    context = RequestContext(**{**unused, **given})
    usage = Usage(
        input_tokens=100, cached_input_tokens=11, cache_write_tokens=12, output_tokens=50, reasoning_tokens=13, images=2
    )
    charge = Charge(21, 22, "batch", "price", by_model="[]")
    debit = context.debit(usage, charge, estimated=True, admitted_at_ms=7, now_s=2.0, note="no_usage")
    assert msgspec.structs.asdict(debit) == {
        "request_id": "request",
        "admitted_at_ms": 7,
        "outcome": "settled",
        "account_id": PRINCIPAL.account_id,
        "user_id": PRINCIPAL.user_id,
        "key_id": PRINCIPAL.key_id,
        "client_request_id": "client's",
        "upstream_request_id": "provider's",
        "endpoint": "/v1/chat/completions",
        "feature": "llm",
        "model": "m",
        "provider": "p",
        "provider_model": "its name there",
        "input_tokens": 100,
        "cached_input_tokens": 11,
        "cache_write_tokens": 12,
        "output_tokens": 50,
        "reasoning_tokens": 13,
        "counts": '{"images":2}',
        "cost_nano": 21,
        "charged_nano": 22,
        "price_id": "price",
        "multiplier": "batch",
        "markup_scaled": context.terms.markup_scaled,
        "estimated": True,
        "status": 201,
        "stream": True,
        "latency_ms": 1000,
        "ttft_ms": 250,
        "tags": '{"a":"b"}',
        "end_user": "end user",
        "session": "session",
        "agent": "agent",
        "parent_agent": "parent",
        "tool": "codex",
        "tool_version": "0.169.0",
        "note": "no_usage",
        "epoch": None,
        "dseq": None,
        "layout": LAYOUT,
        "by_model": "[]",
    }
