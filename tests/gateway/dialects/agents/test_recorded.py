"""What coding agents send by default passes without a refusal, and holds little more than its bytes."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from billing.money import NANO_PER_USD
from billing.pricing import PriceTable
from gateway.config.defaults import EstimateSettings
from gateway.config.settings import load_settings
from gateway.dialects.anthropic.work import TOOL_SYSTEM_TOKENS
from gateway.dialects.base import Match
from gateway.dialects.body import StructureBounds
from gateway.dialects.declared import DEFAULT_BETAS, Betas
from gateway.dialects.facts import NO_PARTS, NO_WORK, ParsedRequest
from gateway.dialects.registry import make_dialects
from gateway.proxy.candidates import Candidate, Rates
from gateway.proxy.estimate import worst_case
from tests.gateway.dialects.agents.recorded import Recorded, recorded

DIALECTS = make_dialects(StructureBounds())
BETAS = Betas(DEFAULT_BETAS)
PROVIDERS = {"claude-code": "anthropic", "continue-anthropic": "anthropic", "gemini-cli": "gemini"}
REQUESTS = [(agent, each) for agent in PROVIDERS for each in recorded(agent)]


class Head:
    """A recorded request's head."""

    def __init__(self, request: Recorded) -> None:
        match = DIALECTS.find("POST", request.path, request.headers)
        assert match is not None
        self.match: Match = match
        self.path = request.path
        self.headers = CIMultiDictProxy(CIMultiDict(request.headers))


def read(request: Recorded) -> ParsedRequest:
    head = Head(request)
    return BETAS.applied(head.match.dialect.parse(head, request.body), head.headers)


@pytest.mark.parametrize(("agent", "request_"), REQUESTS)
def test_each_recorded_request_is_bounded_by_its_bytes(agent, request_):
    parsed = read(request_)
    assert (parsed.parts, parsed.work, parsed.unbounded_input, parsed.context_window) == (NO_PARTS, NO_WORK, False, 0)
    bound = parsed.bound_input_tokens(None)
    assert bound is not None
    assert len(request_.body) <= bound <= len(request_.body) + 2 * TOOL_SYSTEM_TOKENS
    if agent == "claude-code" and b"metadata" in request_.body:
        assert parsed.end_user is None
        assert parsed.session == "91b9bf42-c0f9-4e34-82aa-86f9981e11de"


@pytest.fixture(scope="module")
def prices() -> PriceTable:
    return load_settings({}, mode="command").prices


@pytest.mark.parametrize(("agent", "request_"), REQUESTS)
def test_its_input_holds_cents(agent, request_, prices):
    settings = load_settings({}, mode="command", with_prices=False)
    parsed = read(request_)
    provider = settings.providers[PROVIDERS[agent]]
    row = prices.find(provider.name, parsed.model, 1_795_000_000)
    if row is None:
        assert "unpriced" in parsed.model
        return
    candidate = Candidate(parsed.model, provider, parsed.model, 0, "o200k_base", None, Rates.of(row))
    need = worst_case(parsed, candidate, 0, EstimateSettings())
    assert need.input_cost_nano < NANO_PER_USD  # at a token a byte, and the dearest price of a cache's write
    named = request_.headers.get("anthropic-beta", "")
    for beta in ("context-1m-2025-08-07", "unheard-of-2030-01-01"):
        named = f"{named},{beta}"
        headers = CIMultiDict({**request_.headers, "anthropic-beta": named})
        assert worst_case(read(request_._replace(headers=headers)), candidate, 0, EstimateSettings()) == need
