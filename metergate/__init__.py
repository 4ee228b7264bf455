"""Metergate for your own programs: the client library.

    from metergate import Client

`docs/client-library.md` shows it. `metergate.middleware` finds whose key a request of an aiohttp application shows; it
is imported by itself, with aiohttp's server. `python -m metergate` is the command.
"""

from billing.client.calls import ANSWER_LIMIT_BYTES
from billing.client.client import Client
from billing.client.errors import BadAnswer, ClientError, Refused, Retries, Unreachable
from billing.client.recorder import Spooled, SpoolRules
from billing.client.service import HeldOpen, tokens_used

__all__ = [
    "ANSWER_LIMIT_BYTES",
    "BadAnswer",
    "Client",
    "ClientError",
    "HeldOpen",
    "Refused",
    "Retries",
    "SpoolRules",
    "Spooled",
    "Unreachable",
    "tokens_used",
]
