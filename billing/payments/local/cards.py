"""Test cards: what a payment by each comes to, as Stripe's test cards of these numbers do. Pure.

Source: https://docs.stripe.com/testing#declined-payments
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from billing.payments.objects import PaymentStatus

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Card:
    """A test card. `status` is that of a payment without the payer; `asks` has the payer confirm it on a page."""

    method: str
    label: str
    status: PaymentStatus
    decline_code: str | None = None
    hard: bool = False

    @property
    def asks(self) -> bool:
        """Return whether the payer has to confirm a payment by it."""
        return self.status == "requires_action"


GOOD: Final = Card("visa 4242", "A card that pays", "paid")
ASKS: Final = Card(
    "visa 3155", "A card that asks for confirmation (3-D Secure)", "requires_action", "authentication_required"
)
POOR: Final = Card("visa 9995", "A card without funds: declined", "failed", "insufficient_funds")
STOLEN: Final = Card("visa 9979", "A stolen card: declined for good", "failed", "stolen_card", hard=True)
NONE: Final = Card("", "No card", "failed", "no_payment_method", hard=True)

CARDS: Final[Mapping[str, Card]] = {card.method: card for card in (GOOD, ASKS, POOR, STOLEN)}


def card_of(method: str | None) -> Card:
    """Return the card that is saved as a method; one that is never paid by where none is."""
    return CARDS.get(method or "", NONE)
