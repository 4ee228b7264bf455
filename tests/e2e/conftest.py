"""The gateway's fixtures, for tests from the outside."""

from tests.gateway.conftest import customer_of, gateway, gateway_of, make_gateway, on_stores, shared_gateways, upstream

__all__ = ["customer_of", "gateway", "gateway_of", "make_gateway", "on_stores", "shared_gateways", "upstream"]
