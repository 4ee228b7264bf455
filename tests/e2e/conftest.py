"""The gateway's fixtures, for tests from the outside."""

from tests.gateway.conftest import gateway, make_gateway, upstream

__all__ = ["gateway", "make_gateway", "upstream"]
