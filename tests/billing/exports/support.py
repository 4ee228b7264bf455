"""Usage to be exported, and exports on a database of the test's own."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from billing.exports.folder import Folder
from billing.exports.lago import Lago, LagoMeter, LagoRules
from billing.exports.sinks import CloudEvents, CloudEventsRules, Peer, Sink
from billing.exports.worker import Export, ExportRules, ExportWorker
from billing.ledger.debits import Debit
from billing.ledger.writer import write_debits
from billing.notices.delivery import Poster
from tests.billing.support import PRICE, Billing
from tests.support.usage_peers import FakeLago, FakeOpenMeter

# No test waits longer until nothing is left to be told.
BOUND_S = 60.0

RULES = ExportRules(pause_s=0.000_001, most_pause_s=0.000_001)
LATER = timedelta(hours=2)
METERS = (LagoMeter("usage"), LagoMeter("tokens", "total_tokens", "llm"))


def debit(billing: Billing, account_id: str, at: datetime, charged_nano: int, **changes: Any) -> Debit:
    """A settled request."""
    tokens = 10 + charged_nano % 7
    values: dict[str, Any] = {
        **dict.fromkeys(Debit.__struct_fields__),
        "request_id": billing.new_id(),
        "admitted_at_ms": int(at.timestamp() * 1000),
        "outcome": "settled",
        "account_id": account_id,
        "key_id": "key_1",
        "endpoint": "/v1/chat/completions",
        "feature": "llm",
        "model": "fast",
        "provider": PRICE.provider,
        "provider_model": PRICE.model,
        **dict.fromkeys(("cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "markup_scaled"), 0),
        "input_tokens": tokens,
        "output_tokens": 3,
        "counts": '{"searches":2,"named":{"pages":5}}',
        "cost_nano": charged_nano // 2,
        "charged_nano": charged_nano,
        "price_id": PRICE.id,
        "estimated": False,
        "status": 200,
        "stream": True,
        "tags": '{"team":"=blue"}',
    }
    return Debit(**{**values, **changes})


async def used(
    billing: Billing,
    accounts: Sequence[str],
    count: int,
    *,
    hours: int = 5,
    seed: int = 1,
    ago: timedelta = timedelta(),
) -> list[Debit]:
    """Requests of the last hours, or of those before `ago`, that were written just now. Hours of the month before may
    have to have a partition made for them: a test that counts what is drawn or locked takes none."""
    drawn, now = random.Random(seed), datetime.now(UTC)  # noqa: S311
    debits = []
    for _ in range(count):
        at = now - ago - timedelta(seconds=drawn.uniform(0, hours * 3600))
        debits.append(debit(billing, drawn.choice(accounts), at, drawn.randrange(0, 10**11)))
    await write_debits(billing.database, debits)
    return debits


def lago(name: str, fake: FakeLago, database: Any, meters: tuple[LagoMeter, ...] = METERS) -> Lago:
    peer = Peer("Lago", Poster(private=True, timeout_s=10), {"Authorization": f"Bearer {fake.key}"})
    return Lago(name, LagoRules(fake.url, meters=meters), peer, database)


def cloudevents(name: str, fake: FakeOpenMeter, batch: int = 100) -> CloudEvents:
    peer = Peer("OpenMeter", Poster(private=True, timeout_s=10), {"Authorization": f"Bearer {fake.key}"})
    return CloudEvents(name, CloudEventsRules(f"{fake.url}/api/v1/events", "metergate/here", batch=batch), peer)


def folder(name: str, path: Path) -> Folder:
    return Folder(name, path, "csv")


@asynccontextmanager
async def working(
    database: Any, *sinks: Sink, owner: str = "one", now: Callable[[], datetime] = lambda: datetime.now(UTC) + LATER
) -> Any:
    """A worker, whose connections are closed in the end."""
    worker = ExportWorker(database, sinks, owner, RULES, now, from_beginning=frozenset(each.name for each in sinks))
    try:
        yield worker
    finally:
        for export in worker.exports.values():
            await export.sink.close()


async def opened(worker: ExportWorker) -> list[Export]:
    for export in worker.exports.values():
        await export.cursor.open()
    return list(worker.exports.values())


async def drain(worker: ExportWorker) -> None:
    """Go on until nothing is to be sent any more. A transaction that runs in any database of the server has what was
    written since it began wait: others make and clean theirs meanwhile."""
    exports, clock = await opened(worker), asyncio.get_running_loop().time
    ends_s = clock() + BOUND_S
    while clock() < ends_s:
        await worker._horizon.safe()
        waiting = 0
        for export in exports:
            await worker.step(export)
            standing = await export.cursor.standing()
            assert standing is not None
            waiting += standing.waiting
        if not waiting:
            return
    raise AssertionError(f"it goes on for ever: {[export.standing for export in exports]}")
