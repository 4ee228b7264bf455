"""The gateway's fixtures, for libraries on its outside."""

from tests.gateway.conftest import make_gateway, upstream

__all__ = ["make_gateway", "upstream"]
