"""Comparisons: every amount in one category, whatever the order; names with dates; invoices as they are written."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.provider_bills.lines import (
    CATEGORIES,
    BillLine,
    BillRefused,
    Comparison,
    Counts,
    Tolerance,
    compare,
    group_of,
    read_invoice,
    together,
)

if TYPE_CHECKING:
    pass

DAY, NEXT = date(2026, 11, 20), date(2026, 11, 21)
SINCE, UNTIL = date(2026, 11, 1), date(2026, 12, 1)
EXACT = Tolerance(0, 0)
MODELS = st.sampled_from(["gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-2024-05-13", "claude-x-20250514", "web search", ""])
COUNTS = st.builds(Counts, *[st.integers(0, 10**12)] * 4)
NUMBERS = st.none() | st.integers(0, 10**12)
LINES = st.lists(
    st.builds(
        BillLine,
        st.sampled_from([DAY, NEXT]),
        MODELS,
        st.sampled_from(["", "key_a"]),
        st.sampled_from(["usage", "cost"]),
        NUMBERS,
        NUMBERS,
        NUMBERS,
        st.none() | st.integers(-(10**6), 10**12),
    ),
    max_size=12,
)
OURS = st.dictionaries(st.tuples(st.sampled_from([DAY, NEXT]), MODELS), COUNTS, max_size=8)


@given(OURS, LINES, st.randoms(), st.sampled_from([EXACT, Tolerance()]))
def test_categories_are_the_totals_in_any_order(ours, lines, random, tolerance):
    found = compare(ours, lines, tolerance)
    here, there = Counts(), Counts()
    for counts in ours.values():
        here = here.plus(counts)
    for line in lines:
        there = there.plus(line.counts)
    assert found.total == (here, there)
    summed = Counts(), Counts()
    for category in CATEGORIES:
        mine, theirs = found.of(category)
        summed = summed[0].plus(mine), summed[1].plus(theirs)
    assert summed == (here, there)
    shuffled = random.sample(lines, len(lines))
    again = dict(random.sample(list(ours.items()), len(ours)))
    assert compare(again, together(shuffled), tolerance) == found


def categories(found: Comparison) -> dict[str, str]:
    return {row.model: row.category for row in found.rows}


def test_each_category_and_the_tolerances():
    def line(model, nano):
        return BillLine(DAY, model, line="cost", amount_nano=nano)

    ours = {(DAY, name): Counts(1, 10, 5, 1_000_000_000) for name in ("same", "near", "dearer", "ours")}
    bill = [line("same", 1_000_000_000), line("near", 1_010_000_000), line("dearer", 1_011_000_001), line("theirs", 5)]
    found = compare(ours, bill, Tolerance(0, 99))
    assert categories(found) == {
        **{"same": "matched", "near": "priced_differently", "dearer": "priced_differently"},
        **{"ours": "missing_there", "theirs": "missing_here"},
    }
    assert found.difference_nano == 10_000_000 + 11_000_001 + 1_000_000_000 + 5
    assert categories(compare(ours, bill, Tolerance(10_000_000, 0)))["near"] == "matched"
    assert categories(compare(ours, bill, Tolerance(0, 100)))["near"] == "matched"
    counted = [BillLine(DAY, "same", "key_a", "usage", 1, 10, 6), line("same", 1_000_000_000)]
    (row,) = compare({(DAY, "same"): ours[DAY, "same"]}, counted, EXACT).rows
    assert (row.category, row.tokens_agree, row.keys) == ("matched", False, ("key_a",))


def test_names_with_dates():
    both = {"gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-2024-05-13"}
    assert {group_of(name, both) for name in both} == {"gpt-4o"}
    dated = both - {"gpt-4o"}
    assert {group_of(name, dated) for name in dated} == dated
    assert group_of("claude-sonnet-4-20250514", {"claude-sonnet-4", "claude-sonnet-4-20250514"}) == "claude-sonnet-4"
    assert group_of("gemini-pro-latest", {"gemini-pro"}) == "gemini-pro"
    assert group_of("gpt-4o-mini", {"gpt-4o"}) == "gpt-4o-mini"


def test_an_invoice_is_read_as_it_is_written():
    text = (
        '\ufeffDate,Model,Cost,key,input_tokens\r\n2026-11-20T00:00:00Z,"gpt-4o, new",0.1234567895,k,12\r\n'
        '2026-11-20,"gpt-4o, new",1,k,\r\n2026-12-01,late,1,,\r\n2026-11-30,credit,-2.50,,3.0\r\n'
    )
    names = {"day": "Date", "model": "Model", "amount_usd": "Cost"}
    assert read_invoice(text, names, SINCE, UNTIL) == [
        BillLine(DAY, "gpt-4o, new", "k", input_tokens=12, amount_nano=1_123_456_790),
        BillLine(date(2026, 11, 30), "credit", input_tokens=3, amount_nano=-2_500_000_000),
    ]


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("day,model\n", {}, "no column 'amount_usd'"),
        ("day,model,amount_usd\n", {"price": "x"}, "no column 'price'"),
        ("day,model,amount_usd\n2026-11-20,x,1e999999999\n", {}, "Row 2"),
        ("day,model,amount_usd\n2026-11-20,x,NaN\n", {}, "Row 2"),
        ("day,model,amount_usd\n2026-11-20,x,$5\n", {}, "Row 2"),
        ("day,model,amount_usd,requests\n2026-11-20,x,1,1e99999999\n", {}, "Row 2"),
        ("day,model,amount_usd\n20.11.2026,x,1\n", {}, "Row 2"),
        (f"day,model,amount_usd\n2026-11-20,{'x' * 501},1\n", {}, "Row 2"),
    ],
)
def test_what_is_no_invoice_names_its_row(text, names, message):
    with pytest.raises(BillRefused, match=message):
        read_invoice(text, names, SINCE, UNTIL)
