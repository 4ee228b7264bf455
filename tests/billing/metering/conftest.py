"""An engine on the real stores, as the tests of holds have it."""

from tests.billing.holds.conftest import keyspace, make_world, principal, world

__all__ = ["keyspace", "make_world", "principal", "world"]
