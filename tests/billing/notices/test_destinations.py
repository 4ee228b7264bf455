"""Where deliveries may go: nowhere in the gateway's own network, by whatever name or spelling."""

import socket
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver

from billing.notices.delivery import DestinationRefused, Poster, check_url, is_public
from tests.billing.notices.support import receiving

PRIVATE = (
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:db8::1",
    "fec0::1",
    "fec0::a:1%eth0",
    "feff:ffff::1",
    "fd00:ec2::254",
    "febf::1",
    "ff0e::1",  # of the site of old, and others
    "::ffff:100.64.0.1",
    "64:ff9b::a00:1",
    "64:ff9b::6440:1",
    "2002:a00:1::",
    "2002:6440:1::",
    "2002:a9fe:a9fe::1",
    "64:ff9b:1::a00:1",
    "64:ff9b:1::808:808",  # translators of one's own network (RFC 8215)
    "2001:0:a00:1::f7f7:f7f7",  # Teredo, whose server is private
    "2001:0:808:808::f5ff:fffe",  # and whose client is
    "::10.0.0.1",
    "::8.8.8.8",
    "::ffff:0:10.0.0.1",
    "0:0:0:0:ffff::1",  # IPv4 in ways that nobody routes
    "100.127.255.254",
    "192.0.0.8",
    "192.0.0.9",
    "192.88.99.1",
    "198.18.0.1",
    "240.0.0.1",
    "0.1.2.3",
    "203.0.113.7",
    "100::1",
    "3fff::1",
    "5f00::1",
    "2001:2::1",
    "2001:10::1",
    "4000::1",
    "168.63.129.16",
)
PUBLIC = (
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
    "2001:0:808:808::f7f7:f7f7",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_taken(address):
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused(address):
    assert not is_public(address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(DestinationRefused):
        check_url(f"https://{host}/hooks", private=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "https://",
        "https://user:pw@example.com/",
        "//example.com",
        "https://localhost/",
        "https://a.localhost/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://example.com/#f",
        "https://exa mple.com/",
        "https://[::1",
        "https://example.com:99999/",
        "x" * 3000,
    ],
)
def test_urls_that_are_refused(url):
    with pytest.raises(DestinationRefused):
        check_url(url, private=False)


def test_urls_that_are_taken():
    for url in ("https://example.com/hooks?a=1", "https://1.1.1.1/", "https://[2606:4700:4700::1111]:8443/x"):
        assert check_url(url, private=False) == url
    assert check_url("http://127.0.0.1:8080/", private=True)


class Liar(AbstractResolver):
    """A resolver that answers every name with this machine's address and a public one."""

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
        address = {"hostname": host, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        return [address | {"host": "1.1.1.1"}, address | {"host": "127.0.0.1"}]

    async def close(self) -> None:
        pass


async def test_a_name_that_leads_to_this_machine_is_not_connected_to():
    async with receiving() as receiver:
        poster = Poster(private=False, resolver=Liar())
        outcome = await poster.post(receiver.url.replace("http://127.0.0.1", "https://evil.example"), b"{}", {})
        await poster.close()
    assert outcome.error == "the address is private: only public addresses are delivered to"
    assert receiver.came == []
