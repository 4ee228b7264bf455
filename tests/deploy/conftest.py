"""The gateway's fixtures, for tests from the outside."""

from tests.gateway.conftest import on_stores, shared_gateways

__all__ = ["on_stores", "shared_gateways"]
