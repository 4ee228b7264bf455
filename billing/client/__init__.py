"""The client library: for services that meter through Metergate, and for programs that operate it.

client      BillingClient: the calls on connections that it keeps, and the recorder of events
service     the calls of a service, typed, each repeated with its event's id
retries     which failures are worth another try, and when
holding     a hold as an `async with`
recorder    events that are delivered in the background, and never lost silently
spool       where they wait: a bounded file on disk, one process's own
tokens      what a model's answer says that it used, as a service reports it (pure)
middleware  whose key a request of an aiohttp application shows; imported by itself, with aiohttp's server
"""

from billing.client.calls import ANSWER_LIMIT_BYTES
from billing.client.client import BillingClient
from billing.client.errors import BadAnswer, ClientError, Refused, Unreachable
from billing.client.holding import HeldOpen
from billing.client.recorder import Spooled
from billing.client.retries import Retries
from billing.client.service import ServiceCalls
from billing.client.spool import SpoolRules
from billing.client.tokens import tokens_used

__all__ = [
    "ANSWER_LIMIT_BYTES",
    "BadAnswer",
    "BillingClient",
    "ClientError",
    "HeldOpen",
    "Refused",
    "Retries",
    "ServiceCalls",
    "SpoolRules",
    "Spooled",
    "Unreachable",
    "tokens_used",
]
