"""Usage in rows: counts with columns, other counts, and the shares of several models."""

import msgspec
from hypothesis import given

from billing.ledger.debits import (
    OWN_COLUMNS,
    decode_shares,
    encode_shares,
    other_counts,
    share_of,
    total_usage,
    usage_of,
)
from billing.usage import ModelUsage, Usage
from tests.billing.usages import usages


@given(usages())
def test_a_usage_is_read_back_from_its_row(usage):
    text = other_counts(usage)
    row = {name: getattr(usage, name) for name in OWN_COLUMNS}
    again = usage_of(row, msgspec.json.decode(text) if text else None)
    assert again == msgspec.structs.replace(usage, requests=1)


def test_named_units_and_a_reported_cost_are_kept():
    usage = Usage(named={"call.file_search": 2}, reported_cost_usd="0.0012", milliseconds=27_300)
    text = other_counts(usage)
    assert text is not None
    assert usage_of(dict.fromkeys(OWN_COLUMNS, 0), msgspec.json.decode(text)) == usage


@given(usages(most=1000))
def test_shares_are_read_back(usage):
    share = share_of("m", usage, "price_1", "service_tier=priority")
    (again,) = decode_shares(encode_shares([share]))
    assert (again.model, again.price_id, again.variant) == ("m", "price_1", "service_tier=priority")
    assert again.usage == usage
    assert decode_shares(None) == []


def test_the_totals_of_several_models():
    usage, other = Usage(input_tokens=5, output_tokens=2), ModelUsage("n", Usage(requests=0, input_tokens=7))
    assert total_usage(usage, ()) is usage
    assert total_usage(usage, (other,)) == Usage(input_tokens=12, output_tokens=2)
