"""Prices, subscriptions, schedules and invoices of the fake: periods follow its clock when a test moves it."""

from typing import Any

from tests.support.stripe_fake.payments import Payments
from tests.support.stripe_fake.state import Object, Refused, State, add_months, day_of


class Subscriptions:
    """What is paid by period, on the fake's state. Each subscription has one price, by the month."""

    def __init__(self, state: State, payments: Payments) -> None:
        self.state, self.payments = state, payments

    def add_price(self, price_id: str, cents: int, currency: str = "usd", interval: str = "month") -> Object:
        """Make a price, as an operator does in the dashboard."""
        recurring = {"interval": interval, "interval_count": 1, "usage_type": "licensed"}
        fields = {
            "unit_amount": cents,
            "currency": currency,
            "recurring": recurring,
            "active": True,
            "type": "recurring",
        }
        made = self.state.add("price", "price", **fields)
        del self.state.objects["price"][made["id"]]
        made["id"] = price_id
        self.state.objects["price"][price_id] = made
        return made

    def start(self, customer_id: str, asked: dict[str, Any], method_id: str, intent: Object) -> Object:
        """Start the subscription of a page that was paid by an intent."""
        now, price = self.state.now, self.state.get("price", asked["line_items"][0]["price"], "line_items[0][price]")
        item = {
            "id": self.state.new_id("si"),
            "object": "subscription_item",
            "price": price,
            "quantity": 1,
            "current_period_start": now,
            "current_period_end": add_months(now, 1, day_of(now)),
        }
        subscription = self.state.add(
            "subscription",
            "sub",
            status="active",
            customer=customer_id,
            metadata=dict(asked.get("subscription_data", {}).get("metadata", {})),
            items={"object": "list", "data": [item], "has_more": False},
            billing_mode={"type": "flexible"},
            billing_cycle_anchor=now,
            cancel_at=None,
            cancel_at_period_end=False,
            canceled_at=None,
            ended_at=None,
            schedule=None,
            default_payment_method=method_id,
            latest_invoice=None,
            pending_update=None,
        )
        self.state.emit("customer.subscription.created", subscription)
        line = self._line(subscription, price["unit_amount"], price["id"], *self._period(subscription))
        self._invoice(subscription, "subscription_create", [line], intent)
        return subscription

    def _period(self, subscription: Object) -> tuple[int, int]:
        item = subscription["items"]["data"][0]
        return item["current_period_start"], item["current_period_end"]

    def _line(
        self, subscription: Object, amount: int, price_id: str, start: int, end: int, *, proration: bool = False
    ) -> Object:
        details = {"proration": proration, "subscription": subscription["id"], "subscription_item": "si"}
        return {
            "id": self.state.new_id("il"),
            "object": "line_item",
            "amount": amount,
            "subtotal": amount,
            "currency": "usd",
            "discount_amounts": [],
            "taxes": [],
            "period": {"start": start, "end": end},
            "pricing": {"type": "price_details", "price_details": {"price": price_id, "product": "prod"}},
            "parent": {"type": "subscription_item_details", "subscription_item_details": details},
        }

    def _invoice(self, subscription: Object, reason: str, lines: list[Object], intent: Object | None) -> Object:
        """Make an invoice of lines and pay it: by an intent that was paid already, else by the saved method."""
        total = sum(line["amount"] for line in lines)
        parent = {"subscription": subscription["id"], "metadata": dict(subscription["metadata"])}
        invoice = self.state.add(
            "invoice",
            "in",
            status="open",
            number=f"MG-{self.state.count:04d}",
            billing_reason=reason,
            customer=subscription["customer"],
            currency="usd",
            parent={"type": "subscription_details", "subscription_details": parent, "quote_details": None},
            subtotal=total,
            total=total,
            total_excluding_tax=total,
            amount_due=max(total, 0),
            attempt_count=0,
            next_payment_attempt=None,
            metadata={},
            hosted_invoice_url=f"https://invoice.stripe.test/i/{self.state.count}",
            invoice_pdf=f"https://invoice.stripe.test/i/{self.state.count}/pdf",
            lines={"object": "list", "data": lines, "has_more": False},
        )
        subscription["latest_invoice"] = invoice["id"]
        self.state.emit("invoice.finalized", invoice)
        if intent is not None:
            self._paid_by(invoice, intent)
        elif total <= 0:
            self._mark_paid(invoice)
        else:
            self.try_invoice(invoice["id"])
        return invoice

    def try_invoice(self, invoice_id: str) -> bool:
        """Try to take an invoice's money, as Stripe does again and again, or a customer at its page."""
        invoice = self.state.get("invoice", invoice_id)
        subscription = self.state.get("subscription", invoice["parent"]["subscription_details"]["subscription"])
        method = self.state.get("payment_method", subscription["default_payment_method"])
        payment = next((each for each in self.state.all("invoice_payment") if each["invoice"] == invoice_id), None)
        if payment is None:
            intent = self.payments.new_intent(invoice["total"], invoice["customer"], {})
        else:
            intent = self.state.get("payment_intent", payment["payment"]["payment_intent"])
        invoice["attempt_count"] += 1
        if self.payments.attempt(intent, method, present=False) is None:
            self._paid_by(invoice, intent)
            return True
        self._link(invoice, intent, "open")
        invoice["next_payment_attempt"] = self.state.now + 3 * 86_400
        self.state.emit("invoice.payment_failed", invoice)
        if invoice["billing_reason"] == "subscription_cycle":
            subscription["status"] = "past_due"
            self.state.emit("customer.subscription.updated", subscription)
        return False

    def _link(self, invoice: Object, intent: Object, status: str) -> None:
        known = [each for each in self.state.all("invoice_payment") if each["invoice"] == invoice["id"]]
        payment = {"type": "payment_intent", "payment_intent": intent["id"]}
        link = known[0] if known else self.state.add("invoice_payment", "inpay", invoice=invoice["id"], payment=payment)
        link["status"] = status

    def _paid_by(self, invoice: Object, intent: Object) -> None:
        self._link(invoice, intent, "paid")
        self._mark_paid(invoice)

    def _mark_paid(self, invoice: Object) -> None:
        invoice |= {"status": "paid", "next_payment_attempt": None}
        subscription = self.state.get("subscription", invoice["parent"]["subscription_details"]["subscription"])
        if subscription["status"] == "past_due":
            subscription["status"] = "active"
            self.state.emit("customer.subscription.updated", subscription)
        if subscription["pending_update"] is not None and subscription["latest_invoice"] == invoice["id"]:
            self._set_price(subscription, subscription["pending_update"]["price"])
            subscription["pending_update"] = None
            self.state.emit("customer.subscription.pending_update_applied", subscription)
        self.state.emit("invoice.paid", invoice)

    def _set_price(self, subscription: Object, price_id: str) -> None:
        subscription["items"]["data"][0]["price"] = self.state.get("price", price_id, "items[0][price]")

    def update(self, subscription_id: str, params: dict[str, Any]) -> Object:
        """Change a price at once, set or take back an end. Raises `Refused`."""
        subscription = self.state.get("subscription", subscription_id)
        if subscription["schedule"] is not None:
            raise Refused(400, "The subscription is managed by a subscription schedule: release it first.")
        if subscription["status"] == "canceled":
            raise Refused(400, "A canceled subscription can only update its cancellation_details and metadata.")
        for name in ("cancel_at_period_end", "cancel_at"):
            if name in params:
                subscription[name] = params[name] if params[name] != "" else None
        if "cancel_at_period_end" in params:
            end = self._period(subscription)[1]
            subscription["cancel_at"] = end if params["cancel_at_period_end"] else None
        if "items" in params:
            self._change(subscription, params["items"][0]["price"])
        self.state.emit("customer.subscription.updated", subscription)
        return subscription

    def _change(self, subscription: Object, price_id: str) -> None:
        """Charge the difference of two prices for what is left of the period."""
        start, end = self._period(subscription)
        old, new = subscription["items"]["data"][0]["price"], self.state.get("price", price_id, "items[0][price]")
        now, left = self.state.now, end - self.state.now
        back, charged = (-(price["unit_amount"] * left // (end - start)) for price in (old, new))
        subscription["pending_update"] = {"price": price_id}
        lines = [
            self._line(subscription, back, old["id"], now, end, proration=True),
            self._line(subscription, -charged, new["id"], now, end, proration=True),
        ]
        self._invoice(subscription, "subscription_update", lines, None)

    def cancel(self, subscription_id: str) -> Object:
        """End a subscription now."""
        subscription = self.state.get("subscription", subscription_id)
        subscription |= {"status": "canceled", "ended_at": self.state.now, "canceled_at": self.state.now}
        self.state.emit("customer.subscription.deleted", subscription)
        return subscription

    def create_schedule(self, params: dict[str, Any]) -> Object:
        """Put a subscription under a schedule, whose first phase is its running period."""
        subscription = self.state.get("subscription", params["from_subscription"], "from_subscription")
        start, end = self._period(subscription)
        item = {"price": subscription["items"]["data"][0]["price"]["id"], "quantity": 1}
        phases = [{"items": [item], "start_date": start, "end_date": end}]
        schedule = self.state.add("subscription_schedule", "sub_sched", status="active", phases=phases)
        schedule["subscription"] = subscription["id"]
        subscription["schedule"] = schedule["id"]
        return schedule

    def update_schedule(self, schedule_id: str, params: dict[str, Any]) -> Object:
        """Say what a schedule's phases are."""
        schedule = self.state.get("subscription_schedule", schedule_id)
        phases, at = [], schedule["phases"][0]["start_date"]
        for asked in params["phases"]:
            self.state.get("price", asked["items"][0]["price"], "phases[0][items][0][price]")
            start = asked.get("start_date", at)
            at = asked.get("end_date") or add_months(start, asked["duration"]["interval_count"], day_of(start))
            phases.append({"items": asked["items"], "start_date": start, "end_date": at})
        schedule["phases"] = phases
        self.state.emit("subscription_schedule.updated", schedule)
        return schedule

    def release_schedule(self, schedule_id: str) -> Object:
        """Let a subscription go on without its schedule."""
        schedule = self.state.get("subscription_schedule", schedule_id)
        schedule["status"] = "released"
        self.state.get("subscription", schedule["subscription"])["schedule"] = None
        self.state.emit("subscription_schedule.released", schedule)
        return schedule

    def renew(self, subscription_id: str) -> None:
        """Move the clock to a subscription's period end, and end or renew it."""
        subscription = self.state.get("subscription", subscription_id)
        item = subscription["items"]["data"][0]
        end = item["current_period_end"]
        self.state.now = max(self.state.now, end)
        if subscription["cancel_at"] is not None and subscription["cancel_at"] <= self.state.now:
            self.cancel(subscription_id)
            return
        if subscription["schedule"] is not None:
            schedule = self.state.get("subscription_schedule", subscription["schedule"])
            self._set_price(subscription, schedule["phases"][-1]["items"][0]["price"])
            self.release_schedule(schedule["id"])
        anchor_day = day_of(subscription["billing_cycle_anchor"])
        item |= {"current_period_start": end, "current_period_end": add_months(end, 1, anchor_day)}
        self.state.emit("customer.subscription.updated", subscription)
        line = self._line(subscription, item["price"]["unit_amount"], item["price"]["id"], *self._period(subscription))
        self._invoice(subscription, "subscription_cycle", [line], None)
