"""Operators: who answers, how well, and when circuits opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.api.requests import NotFound
from billing.api.traffic import list_circuit_changes, list_providers, test_provider
from billing.schemas.system import NewProviderTest
from billing.schemas.traffic import ProvidersQuery
from billing.web.forms import count_typed
from billing.web.lists import Column, Field, Figure, Form, Listed, detailed, listed
from billing.web.pages import Page, View, Visit, Who
from billing.web.render import time_text

if TYPE_CHECKING:
    from billing.schemas.system import ProviderShape, ProviderTestShape, TargetShape

_PROVIDERS: Final = (
    Column("Provider", "name", href="/operator/providers/{name}"),
    Column("State", "state", "state"),
    Column("Attempts a minute", "rate", "number"),
    Column("Failed", "failed", "number"),
    Column("p50", "p50", "number"),
    Column("p95", "p95", "number"),
    Column("First token", "first", "number"),
    Column("Last error", "error_at", "time"),
    Column("Error", "error"),
)
_TEST: Final = (
    "One request of at most 16 tokens of output, as a customer's would be sent. It costs you what the provider bills "
    "for it, with the cheapest model well below a cent; no customer is charged, and the audit log keeps it."
)
_TESTED: Final = (
    Column("What to do", "advice"),
    Column("It said", "error"),
    Column("Model", "model", "code"),
    Column("Its name there", "provider_model", "code"),
    Column("Base URL", "origin", "code"),
    Column("State before the test", "state", "state"),
    Column("Tokens in", "input_tokens", "count"),
    Column("Tokens out", "output_tokens", "count"),
)
_TARGETS: Final = (
    Column("Number", "number", "code"),
    Column("Base URL", "origin"),
    Column("State", "state", "state"),
    Column("Tried again", "open_until", "time"),
    Column("Weight", "weight", "count"),
)
_CHANGES: Final = (
    Column("Time", "at", "time"),
    Column("Target", "target", "code"),
    Column("Circuit", "state", "state"),
    Column("After", "reason"),
)
_REASONS: Final = (Column("Reason", "reason"), Column("Attempts", "count", "count"))
_FACTS: Final = (
    Column("Kind", "kind"),
    Column("Off because", "off_reason"),
    Column("APIs", "dialects"),
    Column("Models", "models"),
)
# What the API's states of a target are called here: a circuit that is closed lets requests through.
_STATES: Final = {"closed": "on", "open": "paused", "half_open": "tried again"}
# From so many percent of failures on a provider is called failing.
_FAILING: Final = 5.0
_WITHIN: Final = {"15m": "15 minutes", "1h": "hour", "24h": "24 hours", "7d": "7 days"}
_TIMES: Final = "Times are until an answer begins, from a histogram: approximate."


class _Answers:
    """A provider as a row: how it has answered."""

    __slots__ = ("error", "error_at", "failed", "first", "name", "p50", "p95", "rate", "state")

    def __init__(self, provider: ProviderShape) -> None:
        self.name = provider.name
        seen = provider.traffic
        assert seen is not None  # noqa: S101 - the API gives it to each
        self.state = _state(provider, float(seen.error_percent or 0))
        self.rate = seen.attempts_per_minute if seen.attempts else ""
        self.failed = f"{seen.failures:,} ({seen.error_percent}%)" if seen.attempts else ""
        self.p50, self.p95 = time_text(seen.head_p50_ms), time_text(seen.head_p95_ms)
        self.first = time_text(seen.first_byte_p50_ms)
        self.error_at = None if seen.last_failure is None else seen.last_failure.at
        self.error = "" if seen.last_failure is None else reason_text(seen.last_failure.reason)


def _state(provider: ProviderShape, error_percent: float) -> str:
    states = {target.state for target in provider.targets}
    if provider.off_reason is not None:
        return "off"
    if states == {"open"}:
        return "paused"
    if states - {"closed"}:
        return "partly paused"
    return "failing" if error_percent >= _FAILING else "on"


def reason_text(reason: str) -> str:
    """Return how an attempt has failed, in words: a status says that it is one."""
    return f"HTTP {reason}" if reason.isdecimal() else reason


@dataclass(frozen=True, slots=True)
class _Reason:
    """How often attempts failed in one way."""

    reason: str
    count: int


class _Target:
    """One base URL and key of a provider, as a row. The key is never shown, only how it does."""

    __slots__ = ("number", "open_until", "origin", "state", "weight")

    def __init__(self, target: TargetShape, *, off: bool) -> None:
        self.number, self.origin, self.weight = target.number, target.origin, target.weight
        self.state = "off" if off else _STATES[target.state]
        self.open_until = target.open_until


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of a circuit, as a row."""

    at: str
    target: int
    state: str
    reason: str


async def providers(visit: Visit) -> View:
    """Show who answers, and how well; providers that are not set up stand in one line."""
    asked = visit.query(ProvidersQuery)
    found = (await list_providers(visit.call, asked)).data
    on = [_Answers(each) for each in found if each.off_reason is None]
    off = [each for each in found if each.off_reason is not None]
    within = Field("within", "The last", value=asked.within, options=tuple(_WITHIN.items()))
    empty = "No provider is on: set the key of one in the environment, or in metergate.yaml."
    table = Listed(f"In the last {_WITHIN[asked.within]}", _PROVIDERS, on, empty=empty)
    view = listed("Providers", table, intro=_TIMES, filters=(within,), live=True)
    return View("operator_providers.html", {**view.values, "off": off})


async def provider(visit: Visit) -> View:
    """Show one provider: its targets, why attempts failed, and when its circuits opened and closed."""
    asked = visit.query(ProvidersQuery)
    name = visit.call.id("provider")
    found = next((each for each in (await list_providers(visit.call, asked)).data if each.name == name), None)
    if found is None:
        raise NotFound(f"This gateway has no provider {name!r}.")
    seen, answers = found.traffic, _Answers(found)
    assert seen is not None  # noqa: S101 - the API gives it to each
    changes = (await list_circuit_changes(visit.call)).data
    paused = {"open": "paused", "closed": "on"}
    # A test that is refused is shown at its own address, where nothing is read.
    asking = visit.page.method == "GET"
    filters = (Field("within", "The last", value=asked.within, options=tuple(_WITHIN.items())),)
    figures = (
        Figure("State", answers.state, "state"),
        Figure("Attempts", seen.attempts, "count", f"{seen.attempts_per_minute} a minute"),
        Figure("Failed", answers.failed),
        Figure("p50", answers.p50, note="half of the answers begin within"),
        Figure("p95", answers.p95, note="95% begin within"),
        Figure("First token", answers.first, note="half of the streams have it within"),
        Figure("Last error", answers.error_at, "time", answers.error),
    )
    view = detailed(
        found.name,
        found,
        _FACTS,
        Listed("Base URLs and keys", _TARGETS, [_Target(each, off=bool(found.off_reason)) for each in found.targets]),
        Listed(
            "Why attempts failed",
            _REASONS,
            [_Reason(reason_text(reason), count) for reason, count in seen.reasons.items()],
            empty="None has failed.",
        ),
        Listed(
            "The circuit's history, newest first",
            _CHANGES,
            [_Change(each.at, each.target, paused[each.state], reason_text(each.reason)) for each in changes],
            empty="It never opened.",
        ),
        intro=f"In the last {_WITHIN[asked.within]}. {_TIMES} A target that failed too often is paused; "
        "one request then tries it again.",
        filters=filters if asking else (),
        figures=figures,
        live=asking,
    )
    return _with_test(visit, view, found)


def _with_test(visit: Visit, view: View, provider: ProviderShape) -> View:
    """Return a page with the form that tests a provider above it."""
    trial = None if provider.off_reason else _test_form(visit, provider)
    return View("operator_provider.html", {**view.values, "trial": trial})


def _test_form(visit: Visit, provider: ProviderShape) -> Form:
    models = [each.id for each in visit.services.models(None) if each.owned_by == provider.name]
    fields = [Field("model", "Model", options=(("", "the cheapest"), *((each, each) for each in models)))]
    if len(provider.targets) > 1:
        targets = tuple((str(each.number), f"{each.number}: {each.origin}") for each in provider.targets)
        fields.append(Field("target", "Base URL and key", options=targets))
    where = f"/operator/providers/{provider.name}/test"
    return Form("", where, f"Test {provider.name} now", tuple(fields), _TEST)


class _Tested:
    """How a test ended, as facts."""

    __slots__ = ("advice", "error", "input_tokens", "model", "origin", "output_tokens", "provider_model", "state")

    def __init__(self, found: ProviderTestShape) -> None:
        self.advice, self.error, self.origin = found.advice, found.error, found.origin
        self.model, self.provider_model = found.model, found.provider_model
        self.input_tokens, self.output_tokens = found.input_tokens, found.output_tokens
        self.state = _STATES[found.circuit]


async def test(visit: Visit) -> View:
    """Send a provider one small request, and show how it answers."""
    number = count_typed(visit.typed("target"))
    given = {"model": visit.field("model"), "target": visit.field("target") if number is None else number}
    found = await test_provider(visit.call, visit.body(NewProviderTest, **given))
    status = "no answer" if found.status is None else f"HTTP {found.status}"
    figures = (
        Figure("Answer", "OK" if found.ok else "failed", "state", status),
        Figure("Head of the answer", time_text(found.head_ms)),
        Figure("First token", time_text(found.first_token_ms)),
        Figure("Whole answer", time_text(found.total_ms)),
        Figure("Cost", found.cost_usd, "money", "yours: no customer is charged"),
        Figure("Provider", found.provider, path=f"/operator/providers/{found.provider}"),
    )
    every = (await list_providers(visit.call, ProvidersQuery())).data
    shape = next(each for each in every if each.name == found.provider)
    return _with_test(visit, detailed(f"Test of {found.provider}", _Tested(found), _TESTED, figures=figures), shape)


ROUTES: Final[tuple[Page, ...]] = (
    Page("GET", "/operator/providers", providers, Who.operator),
    Page("GET", "/operator/providers/{provider}", provider, Who.operator),
    Page("POST", "/operator/providers/{provider}/test", test, Who.operator, again=provider),
)
