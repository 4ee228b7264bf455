"""The gateway's fixtures."""

from tests.gateway.conftest import make_gateway

__all__ = ["make_gateway"]
