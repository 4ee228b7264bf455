"""Batches of usage with bad bytes, under kills and freezes: each good event is charged once, and no bad one at all.

Services send batches, plain and as CloudEvents, in which one event in six can't be read or stored: a NUL, a lone
surrogate, bytes that are no UTF-8. A batch is sent again, byte for byte, until it is answered. One service records by
the client library, whose spool parks what is refused and delivers the rest.
"""

import asyncio
import json
import logging
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from metergate import Client, SpoolRules
from tests.chaos.background import STRIKES
from tests.chaos.harness import Customer, Stack, running
from tests.chaos.quiet import wait_until_quiet
from tests.chaos.waiting import until

KEY = "service-key-of-all-the-chaos"
HEADERS = {"X-API-Key": KEY, "X-Service-Name": "chaos"}
SERVICES = 6
MOST_EVENTS = 40
BAD_SHARE = 1 / 6
BAD_TEXTS = (b"\\u0000", b"\0", b"\\ud800", b"\\udfff", b"\xff", b"\xed\xa0\x80")
BAD_IN_PYTHON = ("a\0b", "a\ud800b", "\udfff")
AMOUNT_NANO = 1_000_000
DELIVERED_S = 180.0
CHARGED = "SELECT client_request_id, charged_nano FROM usage_events WHERE account_id = $1 AND outcome = 'settled'"


@dataclass(slots=True)
class _Services:
    """What sends until it is `stopped`. `good` and `bad` are ids of events whose fate is known; `wrong` says what was
    answered that may not be."""

    stack: Stack
    customer: Customer
    chance: random.Random
    stopped: bool = False
    good: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    wrong: Counter[str] = field(default_factory=Counter)

    async def send(self, number: int) -> None:
        """Send one batch after the other."""
        count = 0
        while not self.stopped:
            count += 1
            await self._batch(f"{number}-{count}")
            await asyncio.sleep(self.chance.uniform(0.0, 0.2))

    async def _batch(self, mark: str) -> None:
        is_cloud, size = self.chance.random() < 0.5, self.chance.randint(1, MOST_EVENTS)
        names = [f"{mark}-{place}" for place in range(size)]
        bad = {name for name in names if self.chance.random() < BAD_SHARE}
        events = [self._event(name, is_cloud=is_cloud, is_bad=name in bad) for name in names]
        body = b"[" + b",".join(events) + b"]"
        kind = "application/cloudevents-batch+json" if is_cloud else "application/json"
        answered = await self._until_answered(body if is_cloud else b'{"events":' + body + b"}", kind)
        refused = {name for name, each in zip(names, answered, strict=True) if each["status"] == "refused"}
        if refused != bad:
            self.wrong[f"WRONG: {mark}: {sorted(refused)} were refused, not {sorted(bad)}"] += 1
        self.good |= {f"s {name}" if is_cloud else name for name in names if name not in bad}
        self.bad |= bad

    def _event(self, name: str, *, is_cloud: bool, is_bad: bool) -> bytes:
        data = {"amount_usd": "0.001", "tags": {"t": "TEXT"}}
        plain = {"account_id": self.customer.account_id, "event_id": name, **data}
        cloud = {"specversion": "1.0", "id": name, "source": "s", "type": "chaos", "data": data}
        event = json.dumps({**cloud, "subject": self.customer.account_id} if is_cloud else plain).encode()
        return event.replace(b"TEXT", self.chance.choice(BAD_TEXTS) if is_bad else b"text")

    async def _until_answered(self, body: bytes, kind: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []

        async def answered() -> bool:
            headers, url = {**HEADERS, "Content-Type": kind}, f"{self.stack.url}/api/service/usage"
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with self.stack.session.post(url, data=body, headers=headers) as answer:
                    if answer.status in (400, 500):
                        self.wrong[f"WRONG: a batch was answered {answer.status}: {await answer.text()}"] += 1
                    if answer.status != 200:
                        return False
                    data = (await answer.json())["data"]
                    again = {"temporarily_unavailable", "server_error"}
                    if any(each["error"] and each["error"]["code"] in again for each in data):
                        return False
                    found[:] = data
                    return True
            return False

        await until(answered, f"a batch is answered\n{self.stack.log_tail()}", DELIVERED_S)
        return found

    async def record(self, client: Client) -> None:
        """Record by the client library."""
        count = 0
        while not self.stopped:
            count += 1
            name, is_bad = f"library-{count}", self.chance.random() < BAD_SHARE
            text = self.chance.choice(BAD_IN_PYTHON) if is_bad else "text"
            (self.bad if is_bad else self.good).add(name)
            await client.record(
                self.customer.account_id, event_id=name, amount_usd="0.001", tags={"t": text}, on_error="spool"
            )
            await asyncio.sleep(self.chance.uniform(0.0, 0.05))


async def batches(*, times: int, seed: int, keep: bool) -> Counter[str]:
    """Run; what became of all events."""
    chance = random.Random(seed)  # noqa: S311 - faults and load, not a secret
    logging.getLogger("billing.client.recorder").setLevel(logging.CRITICAL)  # a line for each event that is parked
    async with running(workers=2, keep=keep, variables={"SERVICE_API_KEY": KEY}) as stack:
        services = _Services(stack, await stack.customer("1000"), chance)
        rules = SpoolRules(stack.folder / "events", first_wait_s=0.05, longest_wait_s=1.0)
        client = Client(stack.url, service_key=KEY, service_name="library", spool=rules)
        async with client:
            tasks = [asyncio.create_task(services.send(number)) for number in range(SERVICES)]
            tasks.append(asyncio.create_task(services.record(client)))
            for number in range(times):
                await asyncio.sleep(chance.uniform(0.5, 2.0))
                fault = STRIKES[number % len(STRIKES)] if times >= len(STRIKES) else chance.choice(STRIKES)
                print(f"{fault.name} (after {len(services.good)} events)", flush=True)
                await fault.strike(stack, chance)
            services.stopped = True
            await asyncio.gather(*tasks)
            await until(lambda: not client.spooled.waiting, "the library has delivered all", DELIVERED_S)
            spooled = client.spooled
        await wait_until_quiet(stack)
        return await _found(stack, services, spooled.parked, spooled.lost, rules.folder)


async def _found(stack: Stack, services: _Services, parked: int, lost: int, folder: Path) -> Counter[str]:
    found = Counter(services.wrong)
    async with stack.runtime() as runtime:
        rows = await runtime.database.rows(CHARGED, services.customer.account_id)
    charged = Counter(row["client_request_id"] for row in rows)
    for name in services.good:
        found["good events, charged once" if charged[name] == 1 else f"WRONG: {name}: {charged[name]} debits"] += 1
    for name in charged.keys() - services.good:
        found[f"WRONG: {name} was charged"] += 1
    found["bad events, refused"] += len(services.bad)
    if any(row["charged_nano"] != AMOUNT_NANO for row in rows):
        found["WRONG: an event has another charge than its own"] += 1
    bad_of_library = sum(name.startswith("library-") for name in services.bad)
    if (parked, lost) != (bad_of_library, 0):
        found[f"WRONG: the library parked {parked} and lost {lost}, of {bad_of_library} bad ones, in {folder}"] += 1
    return found
