"""Whose key a request of an aiohttp application shows (`billing.client.middleware`)."""

from billing.client.middleware import PRINCIPAL, metergate_auth, require_principal

__all__ = ["PRINCIPAL", "metergate_auth", "require_principal"]
