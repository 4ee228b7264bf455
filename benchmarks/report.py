"""The tables of a run, and its two files: latest.json has every sample, latest.md what a reader wants to know."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks import goals
from benchmarks.figures import Spread, ratios
from benchmarks.goals import Judged
from benchmarks.subjects import (
    API_BURSTS,
    BARE,
    BURSTS,
    CLOSED,
    COUNTED,
    CROWD,
    DIRECT,
    IDLE,
    LEDGER,
    LONG,
    MEMORY,
    PROMPTS,
    SATURATION,
    SERVES,
    SERVICE,
    STREAMS,
    UNPROXIED,
    WORKERS,
    Results,
    Sample,
)
from benchmarks.tables import described, rounded, table

# The share of its core that a pass-through gets at saturation on a machine that does nothing else.
QUIET: Final = 0.95

Samples = dict[str, list[Sample]]


def markdown(results: Results, machine: dict[str, object]) -> str:
    """Everything that a reader wants to know, as Markdown."""
    parts = [f"# Metergate beside a bare aiohttp pass-through ({results.mode.name} run)", "", *_verdict(results), ""]
    for phase, samples in results.phases.items():
        if phase.endswith("/s"):
            parts += [f"## {phase.removesuffix('/s')} requests/s", "", *_paced(samples), ""]
        elif phase in _SECTIONS:
            title, text, rows = _SECTIONS[phase]
            parts += [f"## {title}", "", text.format(mode=results.mode), "", *rows(samples), ""]
    parts += _direct_rate(results) + _counted_up(results) + described(machine)
    return "\n".join(parts)


def write(results: Results, machine: dict[str, object], folder: Path) -> None:
    """latest.json and latest.md in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    judged = [_figure_row(each) for each in goals.judge(results.phases)]
    report = {"machine": machine, "figures": judged, "ratios_to_bare": summary(results), **asdict(results)}
    (folder / "latest.json").write_text(json.dumps(rounded(report), indent=1) + "\n")
    (folder / "latest.md").write_text(markdown(results, machine))


def summary(results: Results) -> dict[str, dict[str, float]]:
    """The median ratio of CPU to bare of each subject, by phase."""
    return {
        phase: {name: _ratio(samples, name).median for name in samples if name not in (DIRECT, BARE)}
        for phase, samples in results.phases.items()
        if BARE in samples and phase != MEMORY
    }


def _figure_row(judged: Judged) -> dict[str, object]:
    goal = judged.goal
    row = {"figure": goal.name, "unit": goal.unit, "bar": goal.bar, "aim": goal.aim, "at_least": goal.at_least}
    return {**row, **asdict(judged.found), "bar_holds": judged.holds, "aim_reached": judged.reached, "how": goal.how}


def _verdict(results: Results) -> list[str]:
    rows, notes = [], []
    for number, each in enumerate(goals.judge(results.phases), 1):
        goal, found = each.goal, each.found

        def shown(value: float, decimals: int = goal.decimals) -> str:
            return f"{value:,.{decimals}f}"

        sign = "≥" if goal.at_least else "≤"
        aim = "" if goal.aim is None else f"{sign} {goal.aim:,g}"
        rows.append(
            (
                f"{goal.name} [{number}]",
                goal.unit,
                shown(found.median),
                f"{shown(found.least)}-{shown(found.most)}",
                f"{sign} {goal.bar:,g}",
                "holds" if each.holds else "MISSED",
                aim,
                "" if goal.aim is None else "reached" if each.reached else "no",
            )
        )
        notes.append(f"{number}. {goal.how}")
    bare = results.phases.get(SATURATION, {}).get(BARE, [])
    had = Spread.of(_all(bare, "utilisation")).median if bare else 1.0
    warning = f"The machine was busy: bare got {had:.0%} of its core at saturation. Trust ratios at most."
    head = ("Metergate, six windows on key and account", "", "median", "rounds", "bar", "", "aim", "")
    lines = [*table(head, rows, left=2), "", "How each is found:", "", *notes] if rows else ["No figure was judged."]
    return [*lines, *(["", warning] if had < QUIET else [])]


def _paced(samples: Samples) -> list[str]:
    rows = [
        (
            name,
            *_cpu(samples, name),
            _median(rounds, "p50_ms", 2),
            _median(rounds, "p99_ms", 2),
            *(_added(samples, name, figure) for figure in ("p50_ms", "p99_ms")),
        )
        for name, rounds in samples.items()
    ]
    return table(("", "CPU us", "of bare", "rounds", "p50 ms", "p99 ms", "added p50", "added p99"), rows)


def _saturation(samples: Samples) -> list[str]:
    rows = [
        (
            name,
            *_cpu(samples, name),
            _median(rounds, "per_s", 0),
            _median(rounds, "redis_us", 0),
            _median(rounds, "postgres_us", 0),
            f"{Spread.of(_all(rounds, 'utilisation')).median:.0%}",
        )
        for name, rounds in samples.items()
    ]
    return table(("", "CPU us", "of bare", "rounds", "requests/s", "Redis us", "Postgres us", "of its core"), rows)


def _streams(samples: Samples) -> list[str]:
    rows = [
        (name, *_cpu(samples, name), _median(rounds, "ttfb_p50_ms", 2), _median(rounds, "ttfb_p99_ms", 2))
        for name, rounds in samples.items()
    ]
    return table(("", "CPU us a chunk", "of bare", "rounds", "first byte p50 ms", "p99 ms"), rows)


def _bursts(samples: Samples) -> list[str]:
    rows = [
        (
            name,
            _median(rounds, "cpu_us", 2),
            *_cpu(samples, name)[1:],
            _median(rounds, "per_s", 0),
            f"{Spread.of(_all(rounds, 'utilisation')).median:.0%}",
        )
        for name, rounds in samples.items()
    ]
    return table(("", "CPU us a chunk", "of bare", "rounds", "streams/s", "of its core"), rows)


def _medians(**columns: tuple[str, int]) -> Callable[[Samples], list[str]]:
    """Return what makes a table of medians: a column's head from its name, its figure and how many decimals it has."""

    def rows(samples: Samples) -> list[str]:
        found = [(name, *(_median(rounds, *each) for each in columns.values())) for name, rounds in samples.items()]
        return table(("", *columns), found)

    return rows


_crowd: Final = _medians(
    **{
        "kB a stream": ("kb_a_stream", 1),
        "before, MB": ("before_mb", 1),
        "all at once": ("full_mb", 1),
        "after": ("after_mb", 1),
        "CPU us a chunk": ("cpu_us", 0),
    }
)
_counted: Final = _medians(
    **{
        "p99 alone": ("alone_p99_ms", 2),
        "p99 beside": ("p99_ms", 2),
        "p99 added": ("added_p99_ms", 2),
        "longest alone": ("alone_max_ms", 2),
        "longest beside": ("max_ms", 2),
        "longest added": ("added_max_ms", 2),
        "the prompt's own p50, ms": ("prompt_p50_ms", 2),
    }
)


def _workers(samples: Samples) -> list[str]:
    rows = [
        (
            name,
            _median(rounds, "cpu_us", 0),
            _median(rounds, "busiest_us", 0),
            f"{Spread.of(_all(rounds, 'busiest_share')).median:.0%}",
            f"{Spread.of(goals.two_of_one(name)({WORKERS: samples})).median:.2f}",
            _median(rounds, "per_s", 0),
            f"{Spread.of(_all(rounds, 'utilisation')).median:.0%}",
        )
        for name, rounds in samples.items()
    ]
    head = ("", "CPU us", "busier one's us", "its share", "throughput of one", "requests/s here", "of the shared core")
    return table(head, rows)


_memory: Final = _medians(**{"resident MB": ("resident_mb", 0), "shared pages by share": ("own_mb", 0)})
_ledger: Final = _medians(
    **{
        "rows/s": ("rows_per_s", 0),
        "client CPU us a row": ("client_us", 1),
        "Postgres CPU us a row": ("postgres_us", 1),
    }
)
_service: Final = _medians(
    **{
        "events/s": ("events_per_s", 0),
        "CPU us an event": ("target_us", 1),
        "Redis us": ("redis_us", 1),
        "Postgres us": ("postgres_us", 1),
        "p50 ms a call": ("p50_ms", 1),
        "p99 ms": ("p99_ms", 1),
    }
)


_SECTIONS: Final[dict[str, tuple[str, str, Callable[[Samples], list[str]]]]] = {
    SATURATION: ("Saturation", "{mode.connections} connections in a closed loop.", _saturation),
    MEMORY: ("Memory", "After saturation, of the largest worker.", _memory),
    STREAMS: (
        "Streams",
        "50 chunks, one every 20 ms, {mode.streams_at_once} streams at once; a chunk bears its share of the request.",
        _streams,
    ),
    BURSTS: (
        "Bursts",
        "Streams of 52 chunks that come at once, 16 connections in a closed loop; per chunk.",
        _bursts,
    ),
    **{
        phase: (phase.capitalize(), "As many deltas at once as a chat's burst; per event.", _bursts)
        for phase in API_BURSTS.values()
    },
    CLOSED: (
        "Connections without keep-alive",
        "16 clients in a closed loop, each request on a connection of its own.",
        _saturation,
    ),
    PROMPTS: ("Prompts of 37 kB", "16 connections in a closed loop.", _saturation),
    COUNTED: (
        "Beside prompts of 1 MB that have to be counted",
        "100 small requests/s, first alone, then with two such prompts a second beside them. The prompt's customer has "
        "windows that its tokens fit into and its bytes do not.",
        _counted,
    ),
    CROWD: (
        "Slow streams",
        "{mode.crowd_streams} streams at once, a chunk every 400 ms. Resident memory of a fresh process.",
        _crowd,
    ),
    LONG: (
        "Long streams",
        "20 streams of 2,000 events at once; memory is what a fresh worker grows by until their ends.",
        _medians(**{"kB a stream": ("kb_a_stream", 1), "CPU us an event": ("cpu_us", 1)}),
    ),
    IDLE: (
        "An idle worker",
        "One that has served nothing yet.",
        _medians(**{"resident MB": ("fresh_mb", 1), "CPU ms a second": ("idle_ms_per_s", 2)}),
    ),
    SERVES: (
        "The start of `metergate serve`",
        "One worker on stores that run, until `/readyz` answers.",
        _medians(**{"s": ("wall_s", 2)}),
    ),
    WORKERS: (
        "Two workers",
        "`metergate serve --workers N`, all workers on one core, since the others are taken: requests/s here do not "
        "grow. The throughput of two cores is computed from CPU: that of one worker a request, over that of the busier "
        "of two, counted over the requests of both.",
        _workers,
    ),
    LEDGER: ("Ledger", "Debits in batches of 500 over one connection, on a core other than Postgres's.", _ledger),
    SERVICE: (
        "Services",
        "One worker; 64 connections with single debits, each admitted and then committed before it is answered, and 4 "
        "with usage of 100 events a call.",
        _service,
    ),
}


def _direct_rate(results: Results) -> list[str]:
    direct = results.phases.get(UNPROXIED, {}).get(DIRECT)
    skipped = [f"- {name} was left out: {reason}" for name, reason in results.skipped.items()]
    lines = [f"- The generator without a proxy: {_median(direct, 'per_s', 0)} requests/s."] if direct else []
    return ["## Beside", "", *lines, *skipped, ""] if lines or skipped else []


def _counted_up(results: Results) -> list[str]:
    metered = sum(ledger.events for ledger in results.ledgers)
    rows = results.ledger_rows
    more = f" The ledger's own phase wrote {rows} more, all of them found." if rows else ""
    if results.service_events:
        more += f" Services were answered {results.service_events} events, each found once."
    but = f" (but for {', '.join(results.rewritten)}, which writes answers anew)" if results.rewritten else ""
    return [
        "## Counted up",
        "",
        f"{results.answers} answers, no error, every answer byte for byte the upstream's{but}; {metered} of them "
        f"metered, and the ledger has {metered} debits at the right price, every balance the sum of its "
        f"transfers.{more}",
        "",
    ]


def _ratio(samples: Samples, name: str, figure: str = "cpu_us") -> Spread:
    return Spread.of(ratios(_all(samples[name], figure), _all(samples[BARE], figure)))


def _cpu(samples: Samples, name: str) -> tuple[str, str, str]:
    """Three cells: microseconds, the ratio to bare, and its extremes. Direct has no target."""
    if name == DIRECT:
        return ("", "", "")
    spread = _ratio(samples, name)
    return (_median(samples[name], "cpu_us", 0), f"{spread.median:.2f}", f"{spread.least:.2f}-{spread.most:.2f}")


def _all(rounds: Sequence[Sample], figure: str) -> list[float]:
    return [sample[figure] for sample in rounds]


def _median(rounds: Sequence[Sample], figure: str, decimals: int) -> str:
    return f"{Spread.of(_all(rounds, figure)).median:.{decimals}f}"


def _added(samples: Samples, name: str, figure: str) -> str:
    """Above the direct way, round by round; the median, in ms."""
    if name == DIRECT:
        return ""
    return f"{Spread.of(goals.added({'': samples}, '', name, figure)).median:.2f}"
