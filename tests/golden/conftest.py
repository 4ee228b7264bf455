"""The gateway of `tests/gateway`, here too."""

from tests.gateway.conftest import gateway as gateway
from tests.gateway.conftest import make_gateway as make_gateway
