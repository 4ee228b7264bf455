"""Customers, payment methods, payment intents, refunds and disputes of the fake."""

from typing import Any

from tests.support.stripe_fake.cards import CARDS, Card
from tests.support.stripe_fake.state import Object, Refused, State

DISPUTE_FEE = 1500


class Payments:
    """Money that moves, on the fake's state. Methods without an underscore that take `params` are Stripe's API; the
    others are what payers, banks and operators do."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.unconfirmed = False
        """Whether new intents stay without a confirmation, as those of a call that failed on the way may."""
        self.comes_before_cancel = False
        """Whether an intent succeeds at the moment when it is to be canceled."""

    def create_customer(self, params: dict[str, Any]) -> Object:
        """Make a customer."""
        settings = {"default_payment_method": None, "custom_fields": None, "footer": None}
        made = self.state.add(
            "customer",
            "cus",
            name=params.get("name"),
            email=params.get("email"),
            metadata=params.get("metadata", {}),
            invoice_settings=settings,
        )
        self.state.emit("customer.created", made)
        return made

    def delete_customer(self, customer_id: str) -> None:
        """Delete a customer, as an operator does in the dashboard."""
        customer = self.state.customer(customer_id)
        customer["deleted"] = True
        self.state.emit("customer.deleted", customer)

    def save_card(self, customer_id: str, card: Card, *, default: bool = False) -> Object:
        """Save a card of a customer."""
        details = {"brand": "visa", "last4": card.last4, "exp_month": 12, "exp_year": 2034}
        method = self.state.add("payment_method", "pm", type="card", customer=customer_id, card=details, metadata={})
        if default:
            self.state.customer(customer_id)["invoice_settings"]["default_payment_method"] = method["id"]
        self.state.emit("payment_method.attached", method)
        return method

    def new_intent(self, amount: int, customer_id: str | None, metadata: dict[str, str], **more: Any) -> Object:
        """Make a payment intent that waits for a method."""
        intent = self.state.add(
            "payment_intent",
            "pi",
            amount=amount,
            amount_received=0,
            currency="usd",
            customer=customer_id,
            metadata=dict(metadata),
            status="requires_payment_method",
            last_payment_error=None,
            latest_charge=None,
            payment_method=None,
            **more,
        )
        self.state.emit("payment_intent.created", intent)
        return intent

    def create_intent(self, params: dict[str, Any]) -> Object:
        """Make a payment intent and confirm it without the payer. Raises `Refused` for a decline."""
        if not (params.get("confirm") and params.get("off_session") and params.get("error_on_requires_action")):
            raise Refused(400, "The fake knows intents without the payer alone.")
        customer = self.state.customer(params["customer"])
        method = self.state.get("payment_method", params["payment_method"], "payment_method")
        if method["customer"] != customer["id"]:
            raise Refused(400, "The payment method belongs to another customer.", param="payment_method")
        intent = self.new_intent(params["amount"], customer["id"], params.get("metadata", {}))
        if self.unconfirmed:
            intent["status"] = "requires_confirmation"
            return intent
        error = self.attempt(intent, method, present=False)
        if error is not None:
            more = {name: value for name, value in error.items() if name != "message"}
            raise Refused(402, error["message"], **(more | {"payment_intent": intent}))
        return intent

    def cancel_intent(self, intent_id: str) -> Object:
        """Cancel an intent. Raises `Refused` for one that has ended."""
        intent = self.state.get("payment_intent", intent_id, "intent")
        if self.comes_before_cancel:
            self.succeed(intent)
        if intent["status"] in ("succeeded", "canceled"):
            message = f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}."
            raise Refused(400, message, code="payment_intent_unexpected_state")
        intent["status"] = "canceled"
        self.state.emit("payment_intent.canceled", intent)
        return intent

    def attempt(self, intent: Object, method: Object, *, present: bool, later: bool = False) -> Object | None:
        """Try to pay an intent; `present`: the payer is there for 3-D Secure; `later`: the bank takes days. Return the
        error."""
        card = CARDS[method["card"]["last4"]]
        intent["payment_method"] = method["id"]
        if card.needs_payer and not present:
            return self.decline(intent, "authentication_required", "authentication_required", None)
        if card.decline is not None:
            return self.decline(intent, "card_declined", card.decline, card.advice)
        if later:
            intent["status"] = "processing"
            self.state.emit("payment_intent.processing", intent)
            return None
        self.succeed(intent)
        return None

    def decline(self, intent: Object, code: str, decline_code: str, advice: str | None) -> Object:
        """Let a try to pay fail."""
        error = {"type": "card_error", "code": code, "decline_code": decline_code, "message": "Your card was declined."}
        if advice is not None:
            error["advice_code"] = advice
        intent |= {"status": "requires_payment_method", "last_payment_error": error}
        self.state.emit("payment_intent.payment_failed", intent)
        return error

    def succeed(self, intent: Object) -> None:
        """Let an intent be paid."""
        charge = self.state.add(
            "charge",
            "ch",
            amount=intent["amount"],
            amount_refunded=0,
            currency=intent["currency"],
            customer=intent["customer"],
            payment_intent=intent["id"],
            paid=True,
            refunded=False,
            disputed=False,
            status="succeeded",
            metadata=dict(intent["metadata"]),
            receipt_url=f"https://pay.stripe.test/receipts/{intent['id']}",
        )
        intent |= {
            "status": "succeeded",
            "amount_received": intent["amount"],
            "latest_charge": charge["id"],
            "last_payment_error": None,
        }
        self.state.emit("charge.succeeded", charge)
        self.state.emit("payment_intent.succeeded", intent)

    def create_refund(self, params: dict[str, Any]) -> Object:
        """Refund a part of a payment. Raises `Refused`."""
        intent = self.state.get("payment_intent", params["payment_intent"], "payment_intent")
        charge = self.state.get("charge", intent["latest_charge"] or "", "payment_intent")
        amount = params.get("amount", charge["amount"] - charge["amount_refunded"])
        if charge["disputed"]:
            raise Refused(
                400, f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed"
            )
        if amount > charge["amount"] - charge["amount_refunded"]:
            raise Refused(400, "Refund amount is greater than unrefunded amount on charge.", param="amount")
        refund = self.state.add(
            "refund",
            "re",
            amount=amount,
            charge=charge["id"],
            currency="usd",
            payment_intent=intent["id"],
            status="succeeded",
            metadata=params.get("metadata", {}),
        )
        self._count_refunded(charge, amount)
        self.state.emit("refund.created", refund)
        self.state.emit("charge.refunded", charge)
        return refund

    def _count_refunded(self, charge: Object, amount: int) -> None:
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]

    def end_refund(self, refund_id: str, status: str) -> None:
        """Let a refund fail, or be canceled: the money comes back to us."""
        refund = self.state.get("refund", refund_id)
        refund["status"] = status
        self._count_refunded(self.state.get("charge", refund["charge"]), -refund["amount"])
        self.state.emit("refund.failed" if status == "failed" else "refund.updated", refund)

    def dispute(self, payment_id: str, *, warning: bool = False) -> Object:
        """Let the payer's bank dispute a payment; a warning takes nothing."""
        intent = self.state.get("payment_intent", payment_id)
        charge = self.state.get("charge", intent["latest_charge"])
        dispute = self.state.add(
            "dispute",
            "dp",
            amount=charge["amount"],
            currency="usd",
            charge=charge["id"],
            payment_intent=payment_id,
            status="warning_needs_response" if warning else "needs_response",
            reason="fraudulent",
            balance_transactions=[],
            metadata={},
        )
        self.state.emit("charge.dispute.created", dispute)
        if not warning:
            charge["disputed"] = True
            self.move(dispute, -dispute["amount"], "charge.dispute.funds_withdrawn")
        return dispute

    def move(self, dispute: Object, amount: int, event: str) -> None:
        """Move a dispute's money, with a fee that is ours where it is taken."""
        fee = DISPUTE_FEE if amount < 0 else 0
        fields = {"amount": amount, "currency": "usd", "fee": fee, "net": amount - fee, "type": "adjustment"}
        transaction = self.state.add("balance_transaction", "txn", **fields)
        dispute["balance_transactions"].append(transaction)
        self.state.emit(event, dispute)

    def close_dispute(self, dispute_id: str, status: str) -> None:
        """Decide a dispute; won brings the money back."""
        dispute = self.state.get("dispute", dispute_id)
        dispute["status"] = status
        if status == "won":
            self.state.get("charge", dispute["charge"])["disputed"] = False
            self.move(dispute, dispute["amount"], "charge.dispute.funds_reinstated")
        self.state.emit("charge.dispute.closed", dispute)
