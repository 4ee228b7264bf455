"""The client's address of a request, behind trusted proxies; and which addresses are this machine. Pure.

`X-Forwarded-For` is a list to which every proxy appends the address that it was asked from, so that only what one's own
proxies wrote is true, and that stands at the right: the client is the rightmost hop that is no trusted proxy.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network

FORWARDED_HEADER: Final = "X-Forwarded-For"
# How many hops are read, from the right.
HOPS_MAX: Final = 32
# The smallest network that one customer gets (RFC 6177); it counts as one address.
IPV6_BITS: Final = 64
# The groups of an IPv6 address, of 16 bits each, that name a whole site: more than that nobody gets for the asking.
SITE_GROUPS: Final = 3
# Stands for a peer without an address, such as one on a Unix socket.
UNKNOWN: Final = "unknown"


class Addresses:
    """Finds the address of clients behind `trusted` proxies."""

    def __init__(self, trusted: Iterable[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def trusts(self, peer: str) -> bool:
        """Return whether a peer is one of the trusted proxies."""
        address = _parsed(peer)
        return address is not None and any(address in network for network in self._trusted)

    def of(self, peer: str, forwarded: Sequence[str]) -> str:
        """Return where a request comes from: an IPv4 address, or an IPv6 network of 64 bits. `peer` is the other end of
        the connection, `forwarded` the values of its `X-Forwarded-For` headers in their order."""
        if not self.trusts(peer):
            return _subject(peer)
        hops = ",".join(forwarded).rsplit(",", HOPS_MAX)[-HOPS_MAX:] if forwarded else []
        client = peer
        for hop in reversed(hops):
            if _parsed(hop) is None:  # the hop that wrote this is the last that is known
                break
            client = hop
            if not self.trusts(hop):
                break
        return _subject(client)


def site_of(subject: str) -> str:
    """Return the network of 48 bits that one of `Addresses.of` is a part of, and an IPv4 address as it is. One customer
    may have all of its 65,536 networks of 64 bits."""
    groups, is_ipv6, _ = subject.partition("::")  # its second half is zero, so that nothing before it is left out
    if not is_ipv6:
        return subject
    return ":".join(groups.split(":")[:SITE_GROUPS]).removesuffix(":0").removesuffix(":0") + f"::/{SITE_GROUPS * 16}"


def parse_networks(text: str) -> tuple[Network, ...] | None:
    """Parse networks such as `10.0.0.0/8` and addresses, separated by commas; None for anything else."""
    try:
        return tuple(ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())
    except ValueError:
        return None


def is_this_machine(host: str) -> bool:
    """Return whether a host, which may be an IPv6 address in brackets, is this machine, without asking anybody."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _subject(text: str) -> str:
    address = _parsed(text)
    if address is None:
        return UNKNOWN
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), IPV6_BITS), strict=False))
    return str(address)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a hop, which may have a port; an IPv4 address that is written as an IPv6 one is that."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
