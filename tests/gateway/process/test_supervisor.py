"""Workers on one socket: served, restarted, stopped; taken along when the supervisor is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from gateway.process.supervisor import FAILED_STARTS_LIMIT, GATEWAY_ID_VARIABLE
from gateway.server.listening import AddressInUse, address_of, bind
from tests import support

pytestmark = pytest.mark.slow

WAIT_S = 60.0


class Supervising:
    """A running supervisor process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.address = ("", 0)

    def read_until(self, beginning: str) -> str:
        """The next line that begins so; reads on to the end of the output if there is none."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith(beginning):
                return line.rstrip("\n")
        raise AssertionError(f"no line begins with {beginning!r}: {self.lines}")

    def wait_ready(self) -> None:
        host, _, port = self.read_until("ready ").removeprefix("ready ").rpartition(":")
        self.address = (host.strip("[]"), int(port))

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def ask(self) -> tuple[int, str]:
        """The process id of the worker that answers, and what it has in its environment."""
        with socket.create_connection(self.address, WAIT_S) as connection:
            pid, _, colour = connection.makefile().read().partition(" ")
            return int(pid), colour

    def end(self, number: signal.Signals) -> int:
        """Send a signal to its whole session, as a terminal does; the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(WAIT_S)


@contextmanager
def supervising(
    how: str = "serve",
    *,
    workers: int = 2,
    grace_s: float = 30.0,
    listen: str = "127.0.0.1:0",
    loop: str = "asyncio",
    under: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
) -> Iterator[Supervising]:
    process = subprocess.Popen(
        [
            *under,
            sys.executable,
            str(Path(support.__file__).with_name("supervising.py")),
            loop,
            how,
            str(workers),
            str(grace_s),
            listen,
            *more,
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    try:
        supervised = Supervising(process)
        yield supervised
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_workers_serve_until_a_signal(loop, number):
    with supervising(loop=loop) as supervised:
        supervised.wait_ready()
        workers = supervised.workers()
        assert len(workers) == 2
        pid, colour = supervised.ask()
        assert pid in workers
        assert colour == "green"
        assert all(os.getsid(worker) == worker for worker in workers)
        assert supervised.end(number) == 0
        assert not any(is_alive(worker) for worker in workers)


def test_under_nohup_a_closed_terminal_stops_nothing():
    with supervising(under=("nohup",)) as supervised:
        supervised.wait_ready()
        for pid in (supervised.process.pid, *supervised.workers()):
            os.kill(pid, signal.SIGHUP)
        supervised.ask()
        assert supervised.end(signal.SIGTERM) == 0
    assert not any("SIGHUP" in line for line in supervised.lines)


def test_a_worker_that_dies_is_replaced():
    with supervising() as supervised:
        supervised.wait_ready()
        for _ in range(3):  # at once, then with delays
            until(lambda: len(supervised.workers()) == 2, "two workers run")
            dead = min(supervised.workers())
            os.kill(dead, signal.SIGKILL)
            until(lambda gone=dead: len(supervised.workers() - {gone}) == 2, "another takes its place")
            supervised.ask()
        assert supervised.end(signal.SIGTERM) == 0


def test_whoever_asked_is_told_which_gateway_has_ended():
    """At once, so that others need not wait for its lease."""
    with supervising() as supervised:
        supervised.wait_ready()
        names = {pid: psutil.Process(pid).environ()[GATEWAY_ID_VARIABLE] for pid in supervised.workers()}
        assert len(set(names.values())) == 2
        killed, left = names
        os.kill(killed, signal.SIGKILL)
        assert supervised.read_until("ended ") == f"ended {names[killed]}"
        until(lambda: len(supervised.workers() - {killed}) == 2, "another takes its place")
        [new] = supervised.workers() - {killed, left}
        until(lambda: GATEWAY_ID_VARIABLE in psutil.Process(new).environ(), "it runs")
        names[new] = psutil.Process(new).environ()[GATEWAY_ID_VARIABLE]
        assert len(set(names.values())) == 3
        supervised.ask()
        assert supervised.end(signal.SIGTERM) == 0
        assert {supervised.read_until("ended "), supervised.read_until("ended ")} == {
            f"ended {names[left]}",
            f"ended {names[new]}",
        }


def test_workers_are_given_time_to_end():
    with supervising("slow") as supervised:
        supervised.wait_ready()
        supervised.ask()
        assert supervised.end(signal.SIGTERM) == 0
        supervised.read_until("ended in its own time")


def test_the_process_of_pages_is_told_last_and_not_waited_for_long():
    """Workers may give it something until they have ended."""
    with supervising("slow", workers=1, grace_s=3600, more=("pages",)) as supervised:
        supervised.wait_ready()
        supervised.read_until("pages are served")
        assert supervised.end(signal.SIGTERM) == 0
        supervised.read_until("ended in its own time")
        supervised.read_until("pages are to end")


def test_other_workers_take_the_place_of_all_while_connections_are_taken():
    with supervising() as supervised:
        supervised.wait_ready()
        before = supervised.workers()
        supervised.process.send_signal(signal.SIGUSR2)
        until(lambda: supervised.ask()[0] not in before, "another worker answers")
        supervised.read_until("replaced all")
        until(lambda: len(supervised.workers()) == 2, "the old ones have ended")
        assert not supervised.workers() & before
        [dead, _] = supervised.workers()
        os.kill(dead, signal.SIGKILL)
        until(lambda: len(supervised.workers() - {dead}) == 2, "those are started again, too")
        assert supervised.end(signal.SIGTERM) == 0


def test_workers_that_do_not_come_to_serve_take_nobodys_place(tmp_path):
    broken = tmp_path / "broken"
    with supervising(f"unless:{broken}", workers=1) as supervised:
        supervised.wait_ready()
        before = supervised.workers()
        broken.touch()
        supervised.process.send_signal(signal.SIGUSR2)
        assert supervised.read_until("replaced ") == "replaced worker 1: the new one does not come to serve"
        assert supervised.workers() == before
        supervised.ask()
        broken.unlink()
        supervised.process.send_signal(signal.SIGUSR2)
        supervised.read_until("replaced all")
        until(lambda: not supervised.workers() & before, "the old ones have ended")
        assert supervised.end(signal.SIGTERM) == 0


def test_a_worker_that_does_not_go_is_killed():
    with supervising("stubborn", workers=1, grace_s=0.1) as supervised:
        supervised.wait_ready()
        [old] = supervised.workers()
        supervised.process.send_signal(signal.SIGUSR2)
        supervised.read_until("killing worker 1, in whose place another one serves")
        until(lambda: not is_alive(old), "it has ended")
        supervised.ask()
        assert supervised.end(signal.SIGTERM) == 0


def test_a_stop_ends_old_and_new_workers():
    with supervising("stubborn", workers=1, grace_s=3600) as supervised:
        supervised.wait_ready()
        [old] = supervised.workers()
        supervised.process.send_signal(signal.SIGUSR2)
        supervised.read_until("replaced all")
        assert len(supervised.workers()) == 2
        supervised.process.send_signal(signal.SIGTERM)
        supervised.read_until("SIGTERM: stopping")

        def hurry():
            supervised.process.send_signal(signal.SIGTERM)
            return supervised.process.poll() is not None

        until(hurry, "it ends")
        assert not is_alive(old)


def test_a_worker_that_does_not_end_is_killed():
    with supervising("stubborn", workers=1, grace_s=0.1) as supervised:
        supervised.wait_ready()
        [worker] = supervised.workers()
        assert supervised.end(signal.SIGTERM) == 0
        assert not is_alive(worker)


def test_a_second_signal_hurries():
    with supervising("stubborn", grace_s=3600) as supervised:
        supervised.wait_ready()
        supervised.process.send_signal(signal.SIGINT)
        supervised.read_until("SIGINT: stopping")

        def hurry():  # asked for a moment later
            supervised.process.send_signal(signal.SIGINT)
            return supervised.process.poll() is not None

        until(hurry, "it ends")
        supervised.read_until("SIGINT: stopping at once")


def test_a_stop_that_is_asked_for_twice_at_the_same_time_hurries_nobody():
    """`timeout` and make signal the process, and then its whole group."""
    with supervising("slow", workers=1) as supervised:
        supervised.wait_ready()
        supervised.ask()
        supervised.process.send_signal(signal.SIGTERM)
        supervised.read_until("SIGTERM: stopping")
        assert supervised.end(signal.SIGTERM) == 0
        supervised.read_until("ended in its own time")


@pytest.mark.parametrize(("how", "loop"), [("stubborn", "asyncio"), ("stubborn", "uvloop"), ("deaf", "asyncio")])
def test_workers_end_with_a_killed_supervisor_and_the_port_is_free(how, loop):
    with supervising(how, loop=loop) as supervised:
        supervised.wait_ready()
        workers = supervised.workers()
        assert supervised.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not any(is_alive(worker) for worker in workers), "the workers have ended")
        until(lambda: is_free(f"127.0.0.1:{supervised.address[1]}"), "the port is free")


def test_workers_that_never_get_ready_are_given_up():
    with supervising("fail", workers=1) as supervised:
        assert supervised.process.wait(WAIT_S) == 1
        supervised.read_until("worker 1 ended with code 3 before it was ready; giving up")
        assert len([line for line in supervised.lines if "starting it again" in line]) == FAILED_STARTS_LIMIT - 1


def test_an_address_that_is_taken_says_what_to_set():
    with bind("127.0.0.1:0") as taken:
        address = address_of(taken)
        with pytest.raises(AddressInUse) as caught:
            bind(address)
    assert str(caught.value) == f"{address} is in use by another process. Set LISTEN_ADDR to another address."
    assert isinstance(caught.value, OSError)


def test_addresses():
    for listen, begins in ((":0", "0.0.0.0:"), ("127.0.0.1:0", "127.0.0.1:"), ("localhost:0", "")):
        with bind(listen) as listener:
            assert address_of(listener).startswith(begins)
    for wrong in ("", "8080", "localhost", "host:port", "127.0.0.1:65536", "::1:80", "127.0.0.1:-1", "127.0.0.1:²"):
        with pytest.raises(ValueError, match="HOST:PORT was expected"):
            bind(wrong)
    with pytest.raises(OSError, match=r"Cannot listen on 192\.0\.2\.1:80"):
        bind("192.0.2.1:80")


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_ipv6_addresses():
    with bind("[::1]:0") as listener:
        assert address_of(listener).startswith("[::1]:")
    with bind("[::]:0") as listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1]), WAIT_S):
        pass  # IPv4 too


def is_free(address: str) -> bool:
    """Whether it can be bound: for a moment another process may have it, for a connection to somewhere."""
    try:
        bind(address).close()
    except AddressInUse:
        return False
    return True


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s until {what}"
        time.sleep(0.02)
