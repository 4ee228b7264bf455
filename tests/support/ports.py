"""Ports that nobody listens on, and that the kernel gives to no connection before, or between, their use.

`bind` to port 0 answers a port of the range for outgoing connections: any program's next one may get it meanwhile.
"""

import random
import socket
from contextlib import ExitStack
from pathlib import Path

LOWEST = 12_000
# Below the range for outgoing connections, unless the machine says that it begins earlier.
HIGHEST = 32_000
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """So many different ports of this machine. Raises `AssertionError` where there are not so many."""
    end = min(HIGHEST, int(_OUTGOING.read_text().split()[0])) if _OUTGOING.exists() else HIGHEST
    ports, found = range(LOWEST, max(end, LOWEST + 1)), list[int]()
    first = random.SystemRandom().randrange(len(ports))
    with ExitStack() as stack:
        for port in (*ports[first:], *ports[:first]):
            if len(found) == count:
                return found
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    raise AssertionError(f"there are not {count} free ports from {LOWEST} to {end}")


def free_port() -> int:
    """One port of this machine."""
    return free_ports(1)[0]
