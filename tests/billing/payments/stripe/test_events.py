"""Events as they are delivered: signatures over the raw bytes, snapshots and thin ones."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe.params import _webhook_endpoint_create_params

from billing.payments.port import ObjectRef, PaymentEventRefused
from billing.payments.stripe.events import ENDPOINT_EVENTS, OBJECTS, SIGNATURE_HEADER, read, verify
from tests.support.stripe_fake import signed, thin
from tests.support.stripe_fake.state import START, State

NOW = datetime.fromtimestamp(START, UTC)


def event_of(kind: str, **about: object) -> dict[str, object]:
    return State().emit(kind, {"id": "obj_1"} | about)


def test_signature_over_the_raw_bytes():
    """Traps 1, 5: two secrets while one rotates; other bytes, other secrets and old deliveries are refused."""
    body, headers = signed(event_of("x", object="refund"), "whsec_old", "whsec_new", at=START)
    header = headers[SIGNATURE_HEADER]
    assert header.count("v1=") == 2
    for secrets in (["whsec_new"], ["whsec_old"], ["whsec_other", "whsec_new"]):
        verify(body, header, secrets, NOW)
    verify(body, header, ["whsec_new"], NOW + timedelta(seconds=300))
    same_json = json.dumps(json.loads(body)).encode()
    refused = [
        (same_json, header, ["whsec_new"], NOW),
        (body, header, ["whsec_other"], NOW),
        (body, header, [], NOW),
        (body, header, ["whsec_new"], NOW + timedelta(seconds=301)),
        (body, header, ["whsec_new"], NOW - timedelta(seconds=301)),
        (body, header.replace(f"t={START}", f"t={START + 1}"), ["whsec_new"], NOW),
        (body, header.replace("v1=", "v0="), ["whsec_new"], NOW),
        (body, "", ["whsec_new"], NOW),
        (body, "t=,v1=", ["whsec_new"], NOW),
        (body, f"t={START},v1=é", ["whsec_new"], NOW),
    ]
    for each in refused:
        with pytest.raises(PaymentEventRefused):
            verify(*each)


@given(st.text(max_size=80))
def test_any_header_is_refused(header):
    with pytest.raises(PaymentEventRefused):
        verify(b"{}", header, ["whsec"], NOW)


@pytest.mark.parametrize(
    ("about", "ref"),
    [
        ({"object": "payment_intent"}, ObjectRef("payment", "obj_1")),
        ({"object": "checkout.session"}, ObjectRef("checkout", "obj_1")),
        ({"object": "dispute"}, ObjectRef("dispute", "obj_1")),
        ({"object": "charge", "payment_intent": "pi_1"}, ObjectRef("payment", "pi_1")),
        ({"object": "charge", "payment_intent": None}, None),
        ({"object": "subscription_schedule", "subscription": "sub_1"}, ObjectRef("subscription", "sub_1")),
        ({"object": "payout"}, None),
    ],
)
def test_snapshot_and_thin_name_the_same_object(about, ref):
    """Trap 5: both kinds of event are read, types with and without their prefix; what we don't act on has no object."""
    event = event_of("some.type", **about)
    snapshot, notice = (read(json.dumps(each).encode()) for each in (event, thin(event)))
    assert snapshot.ref == ref
    assert notice.ref in (ref, None)  # a part of another object is not named by a thin event
    for each in (snapshot, notice):
        assert (each.type, each.livemode, each.created_at) == ("some.type", False, NOW)


# Ids that no row can have.
NULS: list[dict[str, object]] = [
    {"object": "refund", "id": "re_\0"},
    {"object": "charge", "payment_intent": "pi_\0"},
    {"object": "subscription_schedule", "subscription": "sub_\0"},
]


def test_what_is_no_event_is_refused():
    good = event_of("x", object="refund")
    wrong = [b"", b"[]", b"null", b"{}", b'{"object": "event"}', b"\xff", b'{"object": "charge", "id": "ch_1"}']
    wrong += [json.dumps(good | {name: 7}).encode() for name in ("id", "type", "data")]
    wrong += [json.dumps(good | {"created": "yesterday"}).encode(), json.dumps(good | {"created": 10**30}).encode()]
    wrong += [json.dumps(good | {name: "evt_\0"}).encode() for name in ("id", "type")]
    wrong += [json.dumps(event_of("x", **about)).encode() for about in NULS]
    wrong += [json.dumps(thin(event_of("x", object="refund", id="re_\0"))).encode()]
    wrong += [json.dumps(thin(good) | {"created": "2027-01-31T12:00:00"}).encode()]  # of no zone
    for body in wrong:
        with pytest.raises(PaymentEventRefused):
            read(body)
    assert read(json.dumps(thin(good) | {"related_object": None}).encode()).ref is None


@pytest.mark.parametrize("kind", ENDPOINT_EVENTS)
def test_each_event_that_is_subscribed_to_names_an_object(kind):
    """CONTRIBUTING's recipe for a payment event: its type, and its object where that is new, in one module."""
    of = kind.rpartition(".")[0]  # such as `charge.dispute`, whose object is a `dispute`
    name = of if of in OBJECTS else of.rpartition(".")[2]
    object_kind, field = OBJECTS[name]
    event = read(json.dumps(event_of(kind, object=name, **{field: "obj_1"})).encode())
    assert (event.type, event.ref) == (kind, ObjectRef(object_kind, "obj_1"))


def test_endpoint_is_told_of_types_that_the_library_knows():
    """The SDK's own list of event types: one that is misspelled would never be delivered."""
    known = Path(_webhook_endpoint_create_params.__file__).read_text()
    assert [each for each in ENDPOINT_EVENTS if f'"{each}"' not in known] == []
