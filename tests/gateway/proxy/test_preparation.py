"""From a parsed request to its route and the terms of its key there."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, cast

import pytest

from billing.pricing import PriceRow, PriceTable
from billing.principals import Principal
from gateway.config.defaults import EstimateSettings
from gateway.config.providers import ModelConfig, ProviderConfig
from gateway.dialects.base import Match
from gateway.dialects.openai.dialect import CHAT, OpenAIDialect, parse
from gateway.proxy.context import RequestContext
from gateway.proxy.intake import PROXY_SCOPE
from gateway.proxy.preparation import KnownHeaders, Preparation
from gateway.proxy.routing import Router
from gateway.proxy.senders import Senders
from gateway.proxy.target_health import HealthBoard
from gateway.server.limit_refusals import Links
from gateway.server.refusals import Refuse
from tests.gateway.proxy import test_terms

DIALECT = OpenAIDialect()
BODY = b'{"model":"m","messages":[],"max_tokens":5}'


@dataclass(frozen=True, slots=True)
class Asked:
    """As much of an exchange as is looked at."""

    match: Match = field(default_factory=lambda: Match(DIALECT, DIALECT.endpoints[0]))
    headers: Mapping[str, str] = field(default_factory=dict)
    kept = None


def anew() -> Principal:
    """The same principal, read from Postgres once more."""
    return replace(test_terms.anew(), scopes=frozenset({PROXY_SCOPE}), models=None)


def preparation(rate: int, **provider: Any) -> Preparation:
    row = PriceRow("p", "m", date(2024, 1, 1), {"input": rate, "output": rate}, {}, max_output_tokens=100)
    made = ProviderConfig("p", "openai", **{"base_url": "http://p/v1", **provider})
    router = Router({"p": made}, {"m": ModelConfig("m", "p", "m")}, PriceTable((row,)), HealthBoard([made]))
    none: Any = None
    headers = KnownHeaders(Senders(()))
    return Preparation(router, EstimateSettings(), none, none, time.time, links=Links(None, {}), headers=headers)


def prepared(made: Preparation, principal: Principal) -> RequestContext:
    return made.context(cast("Any", Asked()), "01", principal, parse(CHAT, BODY), BODY, 0.0)


def test_terms_are_kept_for_one_route_of_one_principal():
    principal, one = anew(), preparation(1_000_000)
    context = prepared(one, principal)
    assert prepared(one, principal).terms is context.terms
    assert prepared(one, anew()).terms is not context.terms, "the key, the account or the plan has changed"
    dearer = preparation(2_000_000)
    other = prepared(dearer, principal)
    assert other.terms is not context.terms, "another price row is in force"
    assert dearer.need(other).unit_nano == 2 * one.need(context).unit_nano
    assert prepared(one, principal).terms.route is context.terms.route


def test_what_may_not_be_used_is_refused_in_order():
    principal = anew()
    with pytest.raises(Refuse) as refused:
        prepared(preparation(1, base_url="", dialects={"other": "http://p"}), replace(principal, models=("n",)))
    assert (refused.value.refusal.code, refused.value.refusal.status) == ("model_not_found", 404)
    with pytest.raises(Refuse) as refused:
        prepared(preparation(1), replace(principal, scopes=frozenset(), models=("n",), kept={}))
    assert refused.value.refusal.code == "insufficient_scope"
    with pytest.raises(Refuse) as refused:
        prepared(preparation(1), replace(principal, models=("n",), kept={}))
    assert refused.value.refusal.code == "model_not_allowed"
