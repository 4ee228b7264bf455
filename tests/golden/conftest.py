"""The gateway of `tests/gateway`, here too."""

from tests.gateway.conftest import gateway, gateway_of, on_stores, shared_gateways

__all__ = ["gateway", "gateway_of", "on_stores", "shared_gateways"]
