"""The scripts in Redis against the reference: any order of admissions, settlements, corrections, losses and epochs.

After every step the replies are the reference's, and so is every value in Redis; see `model_checks` for what else must
hold. All of it on two servers: the embedded Valkey, and Redis proper (`tests.support.servers.redis_proper_url`).
HYPOTHESIS_PROFILE=long looks longer, and shrinks what was found:

    HYPOTHESIS_PROFILE=long make test ARGS=tests/billing/holds/test_scripts_model.py
"""

import os
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from billing.holds.redis.client import RedisClient
from tests.model.inputs import MODELS, OWNERS, asks, endings, forward_steps, picks, quotas
from tests.model.machine import ROOM, Machine

PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE", "default")
SIZES: Final = {"default": ({"valkey": 32, "redis": 6}, 40), "long": ({"valkey": 2000, "redis": 2000}, 80)}
"""Examples of each machine by server, and their steps, by profile. Many look for an order that the scripts get wrong;
that a server of another make carries a command out in another way shows in few."""


class Restarts(Machine):
    """Redis goes and comes back all the time; gateways die with it, and what they sent arrives late. What the other
    machines try is left out, so that this comes more often."""

    something_rare = None  # type: ignore[assignment]
    end_again = None  # type: ignore[assignment]
    revoke = None  # type: ignore[assignment]

    @rule(kept=st.sampled_from(("all", "all", "older", "nothing")), killed=st.booleans(), pick=picks)
    def restart(self, kept: str, killed: bool, pick: int) -> None:
        """Redis comes back, and mostly opens at once."""
        self.new_epoch(kept, killed=killed, opened=pick % 4 > 0)

    @rule(items=st.lists(endings, min_size=1, max_size=3), kept=st.sampled_from(("all", "older")))
    @precondition(lambda self: self.running)
    def restart_under_way(self, items: list[Any], kept: str) -> None:
        """What gateways that died with Redis had sent arrives after it is back."""
        made = self.fitted(items)
        self.new_epoch(kept, killed=True, opened=True)
        self.call(made, ROOM)

    @rule()
    def snapshot_now(self) -> None:
        """Save Redis's state as its file on disk, with which it may come back later."""
        self.remember()

    @rule(pick=picks)
    @precondition(lambda self: self.requests)
    def rehold(self, pick: int) -> None:
        """A gateway holds a request again, perhaps late, perhaps a second time."""
        self.rehold_one(list(self.requests)[-1 - pick % min(len(self.requests), 6)])


class Quotas(Machine):
    """Quotas change and windows pass, while nothing is lost and the clock is never set back."""

    something_rare = None  # type: ignore[assignment]

    @rule(step=forward_steps)
    def advance(self, step: tuple[Any, int]) -> None:
        """The server's clock goes on, to just before or after a window's end."""
        self.step(step)

    @rule(key_id=st.sampled_from(tuple(OWNERS)), of_key=st.booleans(), drawn=quotas, step=forward_steps, used=picks)
    def adopt_and_wait(self, key_id: str, of_key: bool, drawn: Any, step: tuple[Any, int], used: int) -> None:
        """Time passes before the new counters are filled, with usage on both sides of it: what was used before is not
        counted in a window that has begun since."""
        subject, place = key_id if of_key else OWNERS[key_id], (key_id, MODELS[0])
        self.direct(place, used, told=True)
        self.set_quotas(subject, [drawn])
        self.adopt(subject, 0)
        self.step(step)
        self.direct(place, used, told=True)

    @rule(items=st.lists(asks, min_size=1, max_size=3), of_key=st.booleans(), drawn=quotas, step=forward_steps)
    def adopt_beside_holds(self, items: list[Any], of_key: bool, drawn: Any, step: tuple[Any, int]) -> None:
        """New counters begin while requests run that were admitted before, perhaps in an earlier window."""
        self.send(items, ROOM)
        self.step(step)
        subject = items[0].key if of_key else OWNERS[items[0].key]
        self.set_quotas(subject, [drawn])
        self.adopt_and_fill(subject)


def run(make: Callable[[], Machine], server: str) -> None:
    examples, length = SIZES[PROFILE]
    run_state_machine_as_test(
        make,  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples[server],
            stateful_step_count=length,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            phases=[phase for phase in Phase if PROFILE == "long" or phase is not Phase.shrink],
        ),
    )


URLS: Final = {"valkey": "redis_url", "redis": "redis_proper_url"}
"""Fixtures: the server of the run, and the other."""


@pytest.mark.parametrize("machine", [Machine, Restarts, Quotas])
@pytest.mark.parametrize("server", URLS)
def test_the_scripts_are_the_reference(server: str, machine: type[Machine], request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue(URLS[server])
    run(lambda: machine(url), server)


async def test_the_two_servers_are_two(redis_url: str, redis_proper_url: str) -> None:
    """Valkey names itself, whatever its `redis_version`; Redis does not."""
    identities = []
    for url in (redis_url, redis_proper_url):
        link = RedisClient(url)
        identities.append(await link.info("server"))
        await link.close()
    assert [server.get("server_name") for server in identities] == ["valkey", None]
