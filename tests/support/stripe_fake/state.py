"""What the fake keeps: a clock, objects by kind, the events that they made, and Stripe's errors."""

import calendar
import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stripe._api_version import _ApiVersion

START = int(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp())
DAY_S = 86_400

Object = dict[str, Any]


class Refused(Exception):
    """An answer that is an error, as Stripe words them."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        kinds = {
            400: "invalid_request_error",
            401: "invalid_request_error",
            402: "card_error",
            404: "invalid_request_error",
        }
        self.error = {"type": kinds.get(status, "api_error"), "message": message} | more


def missing(kind: str, object_id: str, param: str | None = None) -> Refused:
    """Return what is said of an object that there is not: a parameter is a 400, a path a 404."""
    code = {"code": "resource_missing", "param": param or "id"}
    return Refused(400 if param else 404, f"No such {kind}: '{object_id}'", **code)


def day_of(at: int) -> int:
    """Return the day of the month."""
    return datetime.fromtimestamp(at, UTC).day


def add_months(at: int, months: int, anchor_day: int) -> int:
    """Return a time some months later, on the anchor's day or the month's last."""
    moment = datetime.fromtimestamp(at, UTC)
    index = moment.year * 12 + moment.month - 1 + months
    year, month = divmod(index, 12)
    day = min(anchor_day, calendar.monthrange(year, month + 1)[1])
    return int(moment.replace(year=year, month=month + 1, day=day).timestamp())


@dataclass
class State:
    """The account at Stripe. `now` is its clock, which only tests move; `events` are in the order in which they came
    about, however they are delivered."""

    livemode: bool = False
    now: int = START
    objects: dict[str, dict[str, Object]] = field(default_factory=dict)
    events: list[Object] = field(default_factory=list)
    count: int = 0

    def new_id(self, prefix: str) -> str:
        """Return an id that rises with each."""
        self.count += 1
        return f"{prefix}_{self.count:06d}"

    def add(self, kind: str, prefix: str, **fields: Any) -> Object:
        """Keep a new object of a kind."""
        made = {"id": self.new_id(prefix), "object": kind, "created": self.now, "livemode": self.livemode} | fields
        self.objects.setdefault(kind, {})[made["id"]] = made
        return made

    def all(self, kind: str) -> list[Object]:
        """Return the objects of a kind, oldest first."""
        return list(self.objects.get(kind, {}).values())

    def get(self, kind: str, object_id: str, param: str | None = None) -> Object:
        """Return an object. Raises `Refused`."""
        found = self.objects.get(kind, {}).get(object_id)
        if found is None:
            raise missing(kind, object_id, param)
        return found

    def customer(self, object_id: str) -> Object:
        """Return a customer that a parameter names. Raises `Refused` also for one that was deleted."""
        found = self.get("customer", object_id, "customer")
        if found.get("deleted"):
            raise missing("customer", object_id, "customer")
        return found

    def emit(self, kind: str, about: Object) -> Object:
        """Note that something happened to an object, as it is now."""
        event = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": _ApiVersion.CURRENT,
            "created": self.now,
            "livemode": self.livemode,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
            "data": {"object": copy.deepcopy(about)},
        }
        self.events.append(event)
        return event
