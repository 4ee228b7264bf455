"""How much a run measures: which phases, how many rounds, for how long, with how many customers."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.seed import Size

WINDOWS: Final = (0, 2, 6)


@dataclass(frozen=True, slots=True)
class Turns:
    """How often each subject has its turn in a phase, and for how long. No rounds: the phase is left out."""

    rounds: int
    measure_s: float = 0.0

    def __bool__(self) -> bool:
        return self.rounds > 0


@dataclass(frozen=True, slots=True)
class Mode:
    """One choice of what to measure. `paced` are turns by requests a second; `ledger_rows` is for each round."""

    name: str
    size: Size
    saturation: Turns
    paced: dict[int, Turns]
    streams: Turns
    bursts: Turns = Turns(0)
    closed: Turns = Turns(0)
    prompts: Turns = Turns(0)
    counted: Turns = Turns(0)
    crowd: Turns = Turns(0)
    long: Turns = Turns(0)
    idle: Turns = Turns(0)
    starts: Turns = Turns(0)
    workers: Turns = Turns(0)
    ledger: Turns = Turns(0)
    service: Turns = Turns(0)
    commands: Turns = Turns(0)
    pages: Turns = Turns(0)
    ledger_rows: int = 20_000
    windows: tuple[int, ...] = WINDOWS
    nginx: bool = True
    production: bool = False
    warm_s: float = 0.4
    connections: int = 64
    streams_at_once: int = 20
    crowd_streams: int = 2_000


MODES: Final = {
    "quick": Mode(
        "quick",
        Size(20, 60),
        saturation=Turns(3, 2),
        paced={100: Turns(2, 3)},
        streams=Turns(1, 1),
        bursts=Turns(3, 2),
        windows=(6,),
        nginx=False,
    ),
    "default": Mode(
        "default",
        Size(1000, 3000),
        saturation=Turns(6, 2),
        paced={50: Turns(2, 4), 100: Turns(4, 4), 200: Turns(4, 3), 500: Turns(2, 2)},
        streams=Turns(3, 2),
        bursts=Turns(4, 2),
        closed=Turns(3, 2),
        prompts=Turns(4, 2),
        counted=Turns(3, 6),
        crowd=Turns(1),
        long=Turns(1),
        idle=Turns(1, 20),
        starts=Turns(3),
        workers=Turns(4, 2),
        ledger=Turns(3),
        service=Turns(3, 3),
        commands=Turns(9),
        pages=Turns(1),
    ),
    "full": Mode(
        "full",
        Size(1000, 3000),
        saturation=Turns(10, 3),
        paced={50: Turns(4, 6), 100: Turns(8, 6), 200: Turns(8, 5), 500: Turns(4, 4)},
        streams=Turns(5, 4),
        bursts=Turns(8, 3),
        closed=Turns(5, 3),
        prompts=Turns(8, 3),
        counted=Turns(5, 10),
        crowd=Turns(3),
        long=Turns(3),
        idle=Turns(2, 60),
        starts=Turns(5),
        workers=Turns(8, 3),
        ledger=Turns(5),
        service=Turns(5, 4),
        commands=Turns(15),
        pages=Turns(1),
        ledger_rows=100_000,
        production=True,
    ),
    "target": Mode("target", Size(20, 60), Turns(4, 5), {}, Turns(0), windows=(6,), warm_s=1.5, connections=8),
}

PHASES: Final = (
    "saturation",
    "paced",
    "streams",
    "bursts",
    "closed",
    "prompts",
    "counted",
    "crowd",
    "long",
    "idle",
    "starts",
    "workers",
    "ledger",
    "service",
    "commands",
    "pages",
)


def only(mode: Mode, phases: Sequence[str]) -> Mode:
    """The mode with these phases alone. Raises `ValueError` for a phase that there is not."""
    unknown = [phase for phase in phases if phase not in PHASES]
    if unknown:
        raise ValueError(f"there is no phase {unknown[0]!r}: {', '.join(PHASES)}")
    left_out: dict[str, object] = {phase: {} if phase == "paced" else Turns(0) for phase in PHASES}
    changes = {phase: nothing for phase, nothing in left_out.items() if phase not in phases}
    return dataclasses.replace(mode, **changes)  # type: ignore[arg-type]
