"""A Postgres that stands still: nobody waits for it longer than an admission may take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGCONT, SIGSTOP

import psutil
import pytest

from tests.gateway.conftest import Gateway, chat
from tests.support.gateways import ask, fetch, refusal

WAIT_S = 1.0
# A busy machine's; without a bound it were two of Postgres's timeouts, of 10 s each.
BOUND_S = 8.0


@contextmanager
def frozen(postgres: psutil.Process) -> Iterator[None]:
    """The server and all its sessions stand still."""
    postgres.send_signal(SIGSTOP)
    sessions = postgres.children(recursive=True)
    try:
        for session in sessions:
            session.send_signal(SIGSTOP)
        yield
    finally:
        for process in (*sessions, postgres):
            process.send_signal(SIGCONT)


async def server_of(gateway: Gateway) -> psutil.Process:
    """The first process of the Postgres that the tests share."""
    session = psutil.Process(await gateway.runtime.database.value("SELECT pg_backend_pid()"))
    server = session.parent()
    assert server is not None
    return server


@pytest.mark.slow
async def test_who_is_not_known_is_refused_in_time_and_who_is_known_is_served(make_gateway):
    gateway = await make_gateway(admission_wait_ms=int(WAIT_S * 1000))
    warm, cold_account, cold_key = [await gateway.customer() for _ in range(3)]
    assert (await ask(warm, chat())).status == 200
    assert (await fetch(cold_account.get("/v1/models"))).status == 200
    with frozen(await server_of(gateway)):
        for customer in (cold_account, cold_key):
            begun_s = time.monotonic()
            fetched = await ask(customer, chat())
            refusal(fetched, 503, "temporarily_unavailable")
            assert int(fetched.headers["Retry-After"]) > 0
            assert time.monotonic() - begun_s < BOUND_S
        assert (await ask(warm, chat())).status == 200
    for customer in (warm, cold_account, cold_key):
        for _ in range(100):
            status = (await ask(customer, chat())).status
            if status == 200:
                break
            assert status == 503
        assert status == 200
