"""Quotas as text, both ways; and calls of which nobody knows whether they were made."""

from typing import Any

import msgspec
import pytest
import typer

from billing.api.operations import PaymentOperations
from billing.cli.calls import command_of, option
from billing.cli.options import parse_quota_text, quota_text, quotas_of, quotas_text
from billing.cli.output import UNREACHABLE, CommandFailed, says
from billing.client.errors import Refused, Unreachable
from billing.quotas import QuotaError
from billing.schemas.quotas import QuotaShape


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("day:tokens=100000", {"window": "day", "metric": "tokens", "limit": 100000}),
        ("day:tokens=5@gpt-4*", {"window": "day", "metric": "tokens", "limit": 5, "model": "gpt-4*"}),
        ("month:cost=12.50", {"window": "month", "metric": "cost", "limit": "12.50"}),
        ("minute:requests=0@a/b:c=d@e", {"window": "minute", "metric": "requests", "limit": 0, "model": "a/b:c=d@e"}),
    ],
)
def test_both_ways(text, quota):
    assert msgspec.to_builtins(parse_quota_text(text)) == quota
    assert quota_text(parse_quota_text(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "day",
        "day:tokens",
        "day:tokens=",
        "day=5",
        "day:tokens=5@",
        "fortnight:tokens=5",
        "day:words=5",
        "day:tokens=-5",
        "day:tokens=5.0",
        "day:tokens=1e3",
        "day:tokens=٥",
        "day:cost=1e3",
        "day:cost=x",
        "day:tokens=5@a*b",
        "day:tokens=9007199254740992",
    ],
)
def test_what_is_no_quota(text):
    with pytest.raises(QuotaError):
        parse_quota_text(text)


def test_the_wrong_one_is_named():
    with pytest.raises(typer.BadParameter, match="'day:word=2'"):
        quotas_of(["day:tokens=1", "day:word=2"])


def test_in_a_cell():
    assert quotas_text([]) == "none"
    quotas = quotas_of(["day:tokens=1", "month:cost=2"])
    assert quotas_text(quotas) == "day:tokens=1, month:cost=2.00"
    assert quota_text(QuotaShape(window="day", metric="requests", limit=1, feature="images")).endswith("[images]")


class Away:
    """A client whose gateway does not answer, or fails."""

    def __init__(self, error: Exception) -> None:
        self.error, self.keys = error, list[str]()

    async def call(self, operation: object, order_id: str, *, idempotency_key: str) -> None:
        self.keys.append(idempotency_key)
        raise self.error


REFUND = command_of(
    PaymentOperations.refund_order,
    "Give money back.",
    says("{refund_id}"),
    {"idempotency_key": option("KEY", "Once.")},
    confirmed="It goes back.",
    repeated="refund",
)
GIVEN: dict[str, Any] = {"order_id": "ord_1", "idempotency_key": None, "yes": True}


async def test_a_refund_of_which_nothing_is_known_names_its_key():
    for error in (Unreachable("http://gw", "no answer"), Refused(503, "unavailable", "Stripe failed.", {})):
        client = Away(error)
        with pytest.raises(CommandFailed) as failed:
            await REFUND(client, **GIVEN)
        assert f"--idempotency-key {client.keys[0]}" in str(failed.value)
        assert failed.value.code == UNREACHABLE
    refused = Refused(409, "idempotency_conflict", "It is disputed.", {})
    with pytest.raises(Refused):
        await REFUND(Away(refused), **GIVEN)
