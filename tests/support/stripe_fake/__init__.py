"""A stateful fake of Stripe, for tests: what it answers follows from what was done to it.

server         FakeStripe: keys, versions, idempotency (first answers again, 500s too), faults
forms          requests, checked against the TypedDicts of the SDK
routes         the endpoints, lists, searches, expansion
state          a clock that tests move, objects, events; payments  subscriptions  pages  what moves them
meters         what meters are told, and reports of errors
cards          what happens to a card; endpoints  events as they are delivered, signed, snapshot or thin

Events are not delivered by themselves: a test takes them from `state.events`, in whatever order, and as often, as it
likes.
"""

from tests.support.stripe_fake.cards import POOR, SECURE, STOLEN, VISA
from tests.support.stripe_fake.endpoints import signed, thin
from tests.support.stripe_fake.server import FakeStripe, Fault

__all__ = ["POOR", "SECURE", "STOLEN", "VISA", "FakeStripe", "Fault", "signed", "thin"]
