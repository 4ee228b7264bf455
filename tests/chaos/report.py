"""The table: a row for each kind of fault."""

from collections import Counter
from collections.abc import Sequence

from tests.chaos.clients import Ended, Exchange
from tests.chaos.run import Round, Struck

HEAD = (
    "fault",
    "times",
    "requests",
    "whole",
    "debits",
    "lost",
    "free",
    "doubled",
    "overshoot",
    "leaked",
    "drifts",
    "excused, ms",
    "recovery s (median, most)",
)


def table(rounds: Sequence[Round]) -> str:
    """Rows as Markdown; overshoot in nano-USD. Lost and the like are of the whole stack at the end of a round. Excused:
    how many answers are missing that two faults together, or a restored backup, may take, and how long before the fault
    the earliest of them ended."""
    rows = [HEAD, *(_row(each) for each in rounds)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _row(each: Round) -> tuple[str, ...]:
    verdict = each.verdict
    times = sorted(struck.recovered_s for struck in each.struck)
    recovery = f"{times[len(times) // 2]:.2f}, {times[-1]:.2f}" if times else "-"
    return (
        each.name,
        str(len(each.struck)),
        str(len(each.exchanges)),
        str(sum(exchange.ended is Ended.whole for exchange in each.exchanges)),
        str(verdict.debits),
        str(verdict.lost),
        str(verdict.free),
        str(verdict.doubled),
        str(verdict.overshoot_nano + verdict.exceeded),
        str(verdict.leaked),
        str(verdict.drifts + verdict.odd),
        f"{verdict.excused}, {verdict.excused_ms}" if verdict.excused else "-",
        recovery,
    )


def by_fault(each: Round) -> str:
    """How requests ended, by the fault that came last before them, and how long each kind took to recover from."""
    lines = []
    for name in dict.fromkeys(struck.fault.name for struck in each.struck):
        mine = [struck for struck in each.struck if struck.fault.name == name]
        after = [exchange for exchange in each.exchanges if _last(each.struck, exchange) in mine]
        ended = Counter(_how(exchange) for exchange in after)
        counted = ", ".join(f"{count} {how}" for how, count in ended.most_common())
        worst = max(struck.recovered_s for struck in mine)
        lines.append(f"{name} ({len(mine)}): {counted}; recovered within {worst:.2f} s")
    return "\n".join([*lines, *each.notes])


def _how(exchange: Exchange) -> str:
    if exchange.ended is Ended.cut:
        return "cut by the provider" if exchange.plan.do == "cut" else f"cut ({exchange.note})"
    if exchange.ended is Ended.refused:
        return f"refused ({exchange.status} {exchange.note})"
    return str(exchange.ended.value)


def _last(struck: Sequence[Struck], exchange: Exchange) -> Struck | None:
    before = [each for each in struck if each.at_s <= exchange.sent_s]
    return before[-1] if before else None
