"""What is measured, what is found: subjects and the samples of their turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks import wire
from benchmarks.apis import APIS, Api
from benchmarks.connection import Tally
from benchmarks.figures import percentile
from benchmarks.installation import Installation
from benchmarks.modes import Mode
from benchmarks.process import Process
from benchmarks.seed import Written
from benchmarks.stage import Clocks

DIRECT: Final = "direct"
BARE: Final = "bare"
NGINX: Final = "nginx"
METERGATE: Final = "metergate, 6 windows"

SATURATION: Final = "saturation"
UNPROXIED: Final = "saturation, no proxy"
STREAMS: Final = "streams"
BURSTS: Final = "bursts"
# Those of the other APIs, by name.
API_BURSTS: Final = {api.name: f"bursts, {api.name}" for api in APIS}
PROMPTS: Final = "prompts of 37 kB"
COUNTED: Final = "beside counted prompts"
CROWD: Final = "slow streams"
LONG: Final = "long streams"
CLOSED: Final = "connections without keep-alive"
IDLE: Final = "an idle worker"
SERVES: Final = "start of serve"
WORKERS: Final = "two workers"
LEDGER: Final = "ledger"
SERVICE: Final = "services"
SERVICE_DEBITS: Final = "debits, one by one"
SERVICE_USAGE: Final = "usage, 100 events a call"
MEMORY: Final = "memory"
STARTS: Final = "commands"
PAGES: Final = "pages"
READS: Final = "reads of an account"

PROMPT_BYTES: Final = 37_000
COUNTED_BYTES: Final = 1_000_000
FEW_SECRETS: Final = 64
# Requests above it are made for FEW_SECRETS alone: made for all, they would fill the memory.
LARGE_BYTES: Final = 4_096

Sample = dict[str, float]
Report = Callable[[str], None]


class Unsound(Exception):
    """The figures can't be trusted; the message says why."""


@dataclass(slots=True)
class Subject:
    """What is measured: a process, and who asks it. `exact`: it passes the upstream's bytes on, as all but peers must;
    `headers` are what it wants besides."""

    name: str
    process: Process
    secrets: Sequence[str]
    installation: Installation | None = None
    exact: bool = True
    headers: wire.Headers = ()
    _made: dict[tuple[bool, str | None, int], list[bytes]] = field(default_factory=dict)
    _asked: dict[str, list[bytes]] = field(default_factory=dict)

    def requests(self, *, stream: bool = False, user: str | None = None, prompt_bytes: int = 0) -> list[bytes]:
        """One request of each key, made once; `user` is the kind of stream that it asks for."""
        kind = (stream, user, prompt_bytes)
        if kind not in self._made:
            secrets = self.secrets[:FEW_SECRETS] if prompt_bytes > LARGE_BYTES else self.secrets
            self._made[kind] = [
                wire.request(secret, stream=stream, user=user, prompt_bytes=prompt_bytes, headers=self.headers)
                for secret in secrets
            ]
        return self._made[kind]

    def asks(self, api: Api) -> list[bytes]:
        """One stream of another API for each key, made once."""
        if api.name not in self._asked:
            self._asked[api.name] = [api.request(secret) for secret in self.secrets]
        return self._asked[api.name]

    def counted(self) -> bytes:
        """A prompt whose tokens have to be counted before it is let in, where the subject counts at all."""
        secret = self.installation.counted if self.installation is not None else self.secrets[0]
        return wire.request(secret, prompt_bytes=COUNTED_BYTES, model=wire.COUNTED_MODEL)


@dataclass(slots=True)
class Results:
    """Samples by phase, subject and round, in that order; what was left out and why; who writes answers
    anew; what was found at the end."""

    mode: Mode
    phases: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    rewritten: list[str] = field(default_factory=list)
    answers: int = 0
    ledgers: list[Written] = field(default_factory=list)
    ledger_rows: int = 0
    service_events: int = 0


def costs(tally: Tally, used: Clocks, pieces: int) -> Sample:
    """CPU microseconds a piece, of everybody; and how much of its core the target used."""
    scale = 1e6 / pieces
    return {
        "pieces": pieces,
        "cpu_us": used.target * scale,
        "redis_us": used.redis * scale,
        "postgres_us": used.postgres * scale,
        "upstream_us": used.upstream * scale,
        "generator_us": used.generator * scale,
        "utilisation": used.target / tally.measured_s,
        "per_s": tally.measured / tally.measured_s,
    }


def latencies(tally: Tally) -> Sample:
    """Milliseconds from sending to the last byte; `late` is how long after its time a request was sent."""
    return {
        "p50_ms": percentile(tally.latencies_s, 0.5) * 1000,
        "p99_ms": percentile(tally.latencies_s, 0.99) * 1000,
        "max_ms": max(tally.latencies_s) * 1000,
        "late_p99_ms": percentile(tally.late_s, 0.99) * 1000,
    }


def first_bytes(tally: Tally) -> Sample:
    """Milliseconds from sending to the first event of a stream."""
    return {
        "ttfb_p50_ms": percentile(tally.first_bytes_s, 0.5) * 1000,
        "ttfb_p99_ms": percentile(tally.first_bytes_s, 0.99) * 1000,
    }
