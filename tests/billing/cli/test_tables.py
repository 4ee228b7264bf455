"""What fits a terminal, and what a pipe gets."""

import io
import re

import pytest

from billing.cli import Common, Output, Shown, Table
from billing.cli.tables import aligned

REQUEST, ACCOUNT = "01M7YBYJ1BZNSG8RD7T27P21M3", "acc_01M7YC0S5Q6Y0J1W4V8D3E2R9T"
REASON = "The account has used up its balance: buy credit, or wait for the grant of next month."
WIDE = Table(
    ("time", "request", "account", "model", "state", "reason"),
    [("2026-11-25T14:05:27.379Z", REQUEST, ACCOUNT, "gpt-4o", "refused", REASON)],
    folded=("model",),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def printed(monkeypatch):
    def printed(table: Table, width: int, *, colours: bool = False) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm-256color")
        stdout = Terminal()
        Output(Common(), stdout, io.StringIO()).show(Shown({}, (table,)))
        return stdout.getvalue() if colours else re.sub(r"\x1b\[[0-9;]*m", "", stdout.getvalue())

    return printed


def test_a_pipe_gets_everything_as_it_is():
    header, row = aligned(WIDE)
    assert row.split("  ") == [*WIDE.rows[0]]
    assert header.split() == list(WIDE.headers)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_it_fits_and_says_what_is_left_out(printed, width):
    text = printed(WIDE, width)
    assert max(map(len, text.splitlines())) <= width
    left_out = re.sub(r"\s+", " ", text).partition("Left out: ")[2].partition(". A wider")[0]
    header = text.splitlines()[0].split()
    assert sorted([*header, *filter(None, left_out.split(", "))]) == sorted(WIDE.headers)
    assert all(word in text for word in REASON.split())  # wrapped, and never left out


def test_what_matters_least_goes_first(printed):
    assert printed(WIDE, 200).splitlines()[0].split() == list(WIDE.headers)
    assert printed(WIDE, 100).splitlines()[0].split() == ["time", "request", "account", "state", "reason"]
    assert printed(WIDE, 90).splitlines()[0].split() == ["time", "request", "account", "reason"]


def test_an_id_is_cut_only_where_commands_take_how_it_begins(printed):
    assert ACCOUNT in printed(WIDE, 200)
    narrow = printed(WIDE, 100)
    assert REQUEST in narrow
    assert f" {ACCOUNT[:18]} " in narrow


def test_a_name_loses_its_id_rather_than_its_line(printed):
    named = f"ada@example.com ({ACCOUNT[:18]})"
    table = Table(("time", "actor", "action"), [("2026-11-25T14:05:27.379Z", named, "account.create")])
    assert f" {named} " in printed(table, 80)
    assert printed(table, 60).splitlines()[1].split() == ["2026-11-25T14:05:27Z", "ada@example.com", "account.create"]


def test_times_have_no_milliseconds(printed):
    assert "2026-11-25T14:05:27Z" in printed(WIDE, 200)


def test_digits_of_one_value_are_below_each_other(printed):
    table = Table(("model", "requests", "charge USD"), [("a", "9", "0.05"), ("b", "1200", "-"), ("4", "7", "12.00")])
    first, second, third = printed(table, 80).splitlines()[1:]
    assert (first.split(), first.index("9")) == (["a", "9", "$0.05"], second.index("1,200") + 4)
    assert first.index("0.05") + 3 == second.index("-") == third.index("12.00") + 4
    assert third.startswith("4 ")


def test_states_have_colours_and_names_have_none(printed):
    table = Table(("name", "state"), [("ok", "ok"), ("failed", "suspended"), ("x", "closed")])
    first, second, third = printed(table, 80, colours=True).splitlines()[1:]
    assert first.startswith("ok ")
    assert "\x1b[32mok" in first
    assert "\x1b[31msuspended" in second
    assert "\x1b" not in third


def test_no_colours_where_none_are_wanted(printed, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(Table(("state",), [("ok",)]), 80, colours=True)


def test_a_table_of_facts_is_never_shortened(printed):
    facts = Table((), [("account", ACCOUNT), ("status", "active"), ("note", REASON)])
    text = printed(facts, 50)
    assert ACCOUNT in text
    assert "Left out" not in text


MONEY = Table(
    ("account", "requests", "balance USD", "margin %"),
    [("a", "1234567", "12345.678900001", "25.00"), ("b", "9", "0.0001", "-"), ("c", "-", "-5.00", "-3.10")],
)


def test_a_terminal_has_amounts_and_counts_as_the_console_has_them(printed):
    lines = [line.split() for line in printed(MONEY, 120).splitlines()]
    assert lines == [
        ["account", "requests", "balance", "USD", "margin", "%"],
        ["a", "1,234,567", "$12,345.6789", "25.00"],
        ["b", "9", "$0.0001", "-"],
        ["c", "-", "-$5.0000", "-3.10"],
    ]
    cells = zip(printed(MONEY, 120).splitlines(), ("USD", "789", "001", "000"), strict=True)
    assert len({line.rindex(cell) + len(cell) for line, cell in cells}) == 1  # below one another
    assert "12345.678900001" in "\n".join(aligned(MONEY))


def test_so_has_a_table_of_names_and_values(printed):
    facts = Table(
        (),
        [("balance USD", "1234.5"), ("included left USD", "0.50 of 50.00"), ("version", "1.25"), ("events", "12345")],
    )
    text = printed(facts, 120)
    for said in ("$1,234.50", "$0.50 of $50.00", "version            1.25", "12,345"):
        assert said in text


def test_what_is_no_amount_stays(printed):
    strange = Table(("price USD",), [("99999999999999999.00",), ("free",), ("input 2.50, output 10.00",)])
    for said in ("99999999999999999.00", "free", "input $2.50, output $10.00"):
        assert said in printed(strange, 120)
