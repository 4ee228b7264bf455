"""The address of a client: `X-Forwarded-For` counts only from trusted proxies."""

from ipaddress import IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.addresses import UNKNOWN, Addresses, parse_networks, site_of

PROXIES = Addresses(parse_networks("10.0.0.0/8, 192.0.2.7, fd00::/8") or ())


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", [], "198.51.100.1"),
        ("198.51.100.1", ["203.0.113.9"], "198.51.100.1"),  # anybody can say so
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),  # the client wrote the first itself
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 192.0.2.7 , 10.9.9.9"], "203.0.113.9"),
        ("10.0.0.1", ["10.3.3.3"], "10.3.3.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2,"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("fd00::1", ["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("2001:db8:1:2:ffff::1", [], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("10.0.0.1", [",".join(["10.1.1.1"] * 100_000)], "10.1.1.1"),
        ("", ["203.0.113.9"], UNKNOWN),
    ],
)
def test_the_rightmost_hop_that_no_proxy_is(peer, forwarded, client):
    assert PROXIES.of(peer, forwarded) == client


def test_nobody_is_trusted_without_being_named():
    assert Addresses().of("10.0.0.1", ["203.0.113.9"]) == "10.0.0.1"


@pytest.mark.parametrize("text", ["10.0.0.0/33", "host", "10.0.0.1 10.0.0.2"])
def test_what_is_no_network(text):
    assert parse_networks(text) is None


@given(st.integers(0x2000 << 112, (0x4000 << 112) - 1))  # global unicast
def test_the_site_of_an_address(number):
    assert site_of(Addresses().of(str(IPv6Address(number)), ())) == str(ip_network((number, 48), strict=False))


@pytest.mark.parametrize("subject", ["198.51.100.1", UNKNOWN, ""])
def test_what_is_no_part_of_a_site(subject):
    assert site_of(subject) == subject
