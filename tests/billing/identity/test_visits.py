"""How many people may sign in at once: a network has a part of all, and what ended counts no longer."""

import asyncio
import itertools
import os
import sys
import threading
from contextlib import ExitStack

import pytest

from billing.identity.passwords import NICENESS, Passwords, SignInLimit, TooManySignIns


def entered(visits: SignInLimit, network: str, open_: ExitStack) -> int:
    """As many visits of a network as there is room for; how many that is."""
    for count in itertools.count():
        try:
            open_.enter_context(visits.entered(network))
        except TooManySignIns:
            return count
    raise AssertionError


def test_a_network_leaves_room_for_others():
    visits = SignInLimit(64)
    with ExitStack() as open_:
        had = [entered(visits, f"network {network}", open_) for network in range(20)]
        assert (had[0], had[19], sum(had)) == (7, 2, 62)  # the first is an office, and the twentieth has its two
    with visits.entered("network 0"), visits.entered("network 0"):
        pass
    assert not visits._running


def test_a_site_of_ipv6_is_one_network():
    """Whoever has one has 65,536 addresses that count for themselves elsewhere, and keeps nobody else out."""
    visits = SignInLimit(64)
    with ExitStack() as open_:
        assert sum(entered(visits, f"2001:db8:1:{number:x}::/64", open_) for number in range(64)) == 7
        assert entered(visits, "2001:db8:2::/64", open_) == 6  # of what is left


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no niceness of its own")
async def test_hashing_yields_to_the_event_loop():
    passwords = Passwords()
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    try:
        of_thread = await asyncio.get_running_loop().run_in_executor(
            passwords._threads, lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        )
    finally:
        passwords.close()
    assert of_thread == max(own, NICENESS)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
