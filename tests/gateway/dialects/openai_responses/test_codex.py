"""What Codex sends, at the length of real turns: what is held of it at the price of a model that it uses."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from billing.money import parse_usd
from billing.pricing import PriceRow
from gateway.dialects.body import StructureBounds
from gateway.dialects.facts import ParsedRequest
from gateway.dialects.openai_responses.dialect import RESPONSES_CREATION
from gateway.dialects.openai_responses.request import RESPONSES, parse
from gateway.proxy.estimate import worst_case
from tests.gateway.proxy.estimates import STRICT, route

CODEX = [
    each["body"] for each in json.loads((Path(__file__).parent / "agents.json").read_text()) if each["tool"] == "codex"
]
ROW = PriceRow(  # as gpt-5.1
    "openai",
    "m",
    date(2025, 1, 1),
    {"input": 1_250_000_000, "cached_input": 125_000_000, "output": 10_000_000_000},
    per_unit={"search": 10_000_000},
    max_output_tokens=128_000,
    context_window=400_000,
)
REASONING = "gAAAAAB" + "x" * 12_000  # some 1,500 tokens


def at_length(value: Any) -> Any:
    """Return a recording with its texts as long as they were."""
    if isinstance(value, str) and (cut := re.fullmatch(r"<text of (\d+) characters>", value)):
        return "word " * (int(cut[1]) // 5)
    if isinstance(value, dict):
        return {
            name: REASONING if name == "encrypted_content" and under else at_length(under)
            for name, under in value.items()
        }
    return [at_length(each) for each in value] if isinstance(value, list) else value


def read(body: dict[str, Any]) -> ParsedRequest:
    return parse(RESPONSES, json.dumps(at_length(body)).encode(), StructureBounds(), RESPONSES_CREATION)


@pytest.mark.parametrize("body", CODEX, ids=lambda body: f"{body['model']}, {len(body['input'])} items")
def test_a_turn_holds_cents(body):
    parsed = read(body)
    need = worst_case(parsed, route(ROW), 0, STRICT)
    assert need.input_cost_nano < parse_usd("0.25")  # by bytes, before texts are counted; a window costs 0.50


def test_a_turn_that_carries_much_reasoning_holds_its_bytes():
    turn = next(body for body in CODEX if any("encrypted_content" in item for item in body["input"]))
    items = [*turn["input"], *[item for item in turn["input"] if "encrypted_content" in item] * 5]
    more = read({**turn, "input": items})
    assert not more.unbounded_input
    assert 5 * len(REASONING) < more.input_bound_tokens - read(turn).input_bound_tokens < 6 * len(REASONING)
