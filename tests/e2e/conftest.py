"""The gateway's fixtures, for tests from the outside."""

from tests.gateway.conftest import gateway, make_gateway, upstream
from tests.support.stories import tell

__all__ = ["gateway", "make_gateway", "tell", "upstream"]
