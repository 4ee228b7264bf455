"""Hosted pages of the fake: checkout sessions, the portal, and what payers do at them."""

from typing import Any

from tests.support.stripe_fake.cards import VISA, Card
from tests.support.stripe_fake.payments import Payments
from tests.support.stripe_fake.state import DAY_S, Object, Refused, State
from tests.support.stripe_fake.subscriptions import Subscriptions

TAX_PERCENT = 20


class Pages:
    """Checkout and portal, on the fake's state."""

    def __init__(self, state: State, payments: Payments, subscriptions: Subscriptions) -> None:
        self.state, self.payments, self.subscriptions = state, payments, subscriptions

    def create_session(self, params: dict[str, Any]) -> Object:
        """Open a checkout page."""
        self.state.customer(params["customer"])
        mode = params["mode"]
        if mode != "setup" and params.get("adaptive_pricing", {}).get("enabled", True):
            raise Refused(400, "The fake sells in one currency alone: adaptive pricing must be off.")
        subtotal = None if mode == "setup" else self._subtotal(params)
        tax = 0
        if subtotal is not None and params.get("automatic_tax", {}).get("enabled"):
            tax = subtotal * TAX_PERCENT // 100
        total = None if subtotal is None else subtotal + tax
        session_id = f"cs_test_{self.state.count + 1:06d}"
        return self.state.add(
            "checkout.session",
            "cs_test",
            mode=mode,
            status="open",
            payment_status="unpaid" if mode != "setup" else "no_payment_required",
            amount_subtotal=subtotal,
            amount_total=total,
            currency="usd",
            customer=params["customer"],
            client_reference_id=params.get("client_reference_id"),
            metadata=params.get("metadata", {}),
            payment_intent=None,
            subscription=None,
            invoice=None,
            setup_intent=None,
            url=f"https://checkout.stripe.test/c/pay/{session_id}",
            success_url=params["success_url"],
            cancel_url=params.get("cancel_url"),
            expires_at=self.state.now + DAY_S,
            asked=params,
        )

    def _subtotal(self, params: dict[str, Any]) -> int:
        total = 0
        for line in params["line_items"]:
            price = line.get("price_data")
            amount = self.state.get("price", line["price"], "line_items[0][price]") if price is None else price
            total += amount["unit_amount"] * line.get("quantity", 1)
        return total

    def expire_session(self, session_id: str) -> Object:
        """Close a page. Raises `Refused` for one that is not open."""
        session = self.state.get("checkout.session", session_id)
        if session["status"] != "open":
            raise Refused(400, 'Only Checkout Sessions with a status in ["open"] can be expired.')
        session |= {"status": "expired", "url": None}
        self.state.emit("checkout.session.expired", session)
        return session

    def pay(self, session_id: str, card: Card = VISA, *, later: bool = False) -> Object:
        """Do what a payer does at a page: give a card, with 3-D Secure where it asks. A decline leaves the page open;
        `later`: by a method whose money takes days."""
        session = self.state.get("checkout.session", session_id)
        if session["status"] != "open":
            raise Refused(400, "This page is closed.")
        asked, customer = session["asked"], session["customer"]
        if session["mode"] == "setup":
            method = self.payments.save_card(customer, card)
            return self._complete(session, setup_intent=self.state.new_id("seti"), paid=None, method=method)
        data = asked.get("payment_intent_data", {})
        of_subscription = session["mode"] == "subscription"
        intent = self._intent(session, {} if of_subscription else data.get("metadata", {}))
        method = self._method(customer, card, keep=of_subscription or data.get("setup_future_usage") == "off_session")
        if self.payments.attempt(intent, method, present=True, later=later) is not None:
            return session
        if of_subscription:
            started = self.subscriptions.start(customer, asked, method["id"], intent)
            found = {"subscription": started["id"], "invoice": started["latest_invoice"], "payment_intent": None}
            session |= found
        return self._complete(session, paid=not later, method=method)

    def _intent(self, session: Object, metadata: dict[str, str]) -> Object:
        """Return the intent of a page: one for all tries."""
        if session["payment_intent"] is not None:
            return self.state.get("payment_intent", session["payment_intent"])
        intent = self.payments.new_intent(session["amount_total"], session["customer"], metadata)
        session["payment_intent"] = intent["id"]
        return intent

    def _method(self, customer_id: str, card: Card, *, keep: bool) -> Object:
        method = self.payments.save_card(customer_id, card)
        if not keep:
            method["customer"] = None
        return method

    def _complete(self, session: Object, *, paid: bool | None, method: Object, **more: Any) -> Object:
        session |= {"status": "complete", "url": None, **more}
        if paid:
            session["payment_status"] = "paid"
        self.state.emit("checkout.session.completed", session)
        return session

    def settle(self, session_id: str, *, ok: bool) -> None:
        """Let money that takes days come, or not."""
        session = self.state.get("checkout.session", session_id)
        intent = self.state.get("payment_intent", session["payment_intent"])
        if ok:
            session["payment_status"] = "paid"
            self.payments.succeed(intent)
        else:
            self.payments.decline(intent, "payment_intent_payment_attempt_failed", "generic_decline", None)
        self.state.emit(f"checkout.session.async_payment_{'succeeded' if ok else 'failed'}", session)

    def create_portal(self, params: dict[str, Any]) -> Object:
        """Open the customer portal."""
        customer = self.state.customer(params["customer"])
        made = self.state.add("billing_portal.session", "bps", customer=customer["id"], return_url=params["return_url"])
        made["url"] = f"https://billing.stripe.test/p/session/{made['id']}"
        return made

    def cancel_in_portal(self, subscription_id: str) -> None:
        """Do what a customer does in the portal with flexible billing: `cancel_at` is set, and the flag stays false."""
        subscription = self.state.get("subscription", subscription_id)
        subscription["cancel_at"] = subscription["items"]["data"][0]["current_period_end"]
        self.state.emit("customer.subscription.updated", subscription)
