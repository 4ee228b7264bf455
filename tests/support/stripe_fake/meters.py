"""Meter events of the fake: identifiers are unique for a day, times are bounded, and errors are reported later."""

from typing import Any

from tests.support.stripe_fake.state import DAY_S, Object, Refused, State

EVENT, REPORT = "billing.meter_event", "v2.core.event"
OLDEST_S, AHEAD_S = 35 * DAY_S, 300


class Meters:
    """What meters are told, on the fake's state."""

    def __init__(self, state: State) -> None:
        self.state = state

    def create_event(self, params: dict[str, Any]) -> Object:
        """Take an event; the customer is not looked at yet."""
        identifier, at = params.get("identifier"), params.get("timestamp", self.state.now)
        known = [each["identifier"] for each in self.state.all(EVENT) if each["created"] > self.state.now - DAY_S]
        if identifier in known:
            raise Refused(400, f"An event already exists with identifier {identifier}.")
        if not self.state.now - OLDEST_S <= at <= self.state.now + AHEAD_S:
            raise Refused(400, "The timestamp must be within the past 35 days or up to 5 minutes in the future.")
        payload = params["payload"]
        if set(payload) != {"stripe_customer_id", "value"} or not payload["value"].isdigit():
            raise Refused(400, "The payload lacks a customer, or a value that is a whole number.", param="payload")
        if len(identifier or "") > 100:
            raise Refused(400, "The identifier is too long.", param="identifier")
        fields = {name: params[name] for name in ("event_name", "payload", "identifier")}
        return self.state.add(EVENT, "mtr", timestamp=at, **fields)

    def report(self, message: str, *identifiers: str) -> Object:
        """Report that events were wrong after all, as it is delivered (thin); they count no more."""
        for made in self.state.all(EVENT):
            if made["identifier"] in identifiers:
                made["payload"]["value"] = "0"
        samples = [{"error_message": message, "request": {"identifier": each}} for each in identifiers]
        kind = {"code": "no_meter", "error_count": len(samples), "sample_errors": samples}
        event = {"type": "v1.billing.meter.error_report_triggered", "livemode": self.state.livemode}
        data = {"reason": {"error_count": len(samples), "error_types": [kind]}}
        self.state.add(REPORT, "evt", data=data, **event)
        made = self.state.all(REPORT)[-1]
        made["livemode"] = self.state.livemode
        thin = {name: made[name] for name in ("id", "object", "type", "livemode")}
        about = {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"}
        return thin | {"created": "2026-01-31T12:00:00.000Z", "related_object": about}
