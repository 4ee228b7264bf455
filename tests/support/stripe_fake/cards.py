"""Payment methods of the fake, by the number that a payer would type at Stripe's test mode."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """What happens when it is charged: `decline` is a decline code; with `needs_payer` only the payer can pay by it."""

    last4: str
    decline: str | None = None
    needs_payer: bool = False
    advice: str | None = None


VISA = Card("4242")
POOR = Card("9995", "insufficient_funds", advice="try_again_later")
STOLEN = Card("9979", "stolen_card", advice="do_not_try_again")
# 3-D Secure each time.
SECURE = Card("3184", needs_payer=True)
CARDS = {each.last4: each for each in (VISA, POOR, STOLEN, SECURE)}
