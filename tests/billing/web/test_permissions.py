"""The permission matrix of pages: every page by everybody, with the status that each is answered. A page without a row
fails."""

from typing import Final

from billing.web.application import ROUTES
from tests.billing.web.support import Console

CALLERS: Final = ("nobody", "gone", "viewer", "member", "admin", "owner", "stranger", "operator", "link")
"""`gone` shows a cookie that is none any more; `stranger` owns another organization; `operator` is a person with that
right and no organization, `link` came by a link."""
TO_SIGN_IN: Final = [303, 303]
ANYONE: Final = [200] * 9
CUSTOMERS: Final = [*TO_SIGN_IN, 200, 200, 200, 200, 200, 403, 403]
"""Pages of an organization that every role reads."""
OF_ANOTHER: Final = [*TO_SIGN_IN, *[404] * 5, 403, 403]
NO_VIEWER: Final = [*TO_SIGN_IN, 403, 404, 404, 404, 404, 403, 403]
REFUSED: Final = [*TO_SIGN_IN, 403, 403, 422, 422, 422, 403, 403]
"""Pages of something that is not there, what viewers may not do to it, and an empty form for admins and owners."""
OPERATORS: Final = [*TO_SIGN_IN, *[403] * 5, 200, 200]
"""Pages of operators; of what is not there, and forms that lack what they need."""
OPERATORS_NONE: Final = [*TO_SIGN_IN, *[403] * 5, 404, 404]
OPERATORS_READ: Final = (
    *("", "/accounts", "/keys", "/requests", "/payments", "/payments/parked", "/payments/events"),
    *("/payments/differences", "/plans", "/prices", "/margin", "/providers", "/people", "/audit", "/jobs"),
    *("/exporters", "/exports", "/webhooks"),
)
OPERATORS_READ_ONE: Final = (
    *("/accounts/{account_id}", "/accounts/{account_id}/transactions", "/requests/{request_id}"),
    *("/payments/orders/{order_id}", "/people/{user_id}", "/webhooks/{endpoint_id}"),
)
OPERATORS_CHANGE: Final = {
    path: [*TO_SIGN_IN, *[403] * 5, status, status]
    for path, status in {
        "/accounts/{account_id}/grant": 404,
        "/accounts/{account_id}/refund": 404,
        "/accounts/{account_id}/adjust": 404,
        "/accounts/{account_id}/change": 404,
        "/keys/{key_id}/revoke": 404,
        "/payments/orders/{order_id}/refund": 404,
        "/payments/parked/credit": 404,
        "/payments/parked/dismiss": 422,
        "/payments/parked/{parked_id}/credit": 404,
        "/payments/events/{event_id}/replay": 404,
        "/people/{user_id}": 404,
        "/jobs/collect": 503,
        "/exporters/assign": 422,
        "/exports/{export}/retry": 404,
        "/webhooks/{endpoint_id}/test": 404,
        "/webhooks/{endpoint_id}/{delivery_id}/again": 404,
    }.items()
}
MATRIX: Final[dict[str, list[int]]] = {
    "GET /sign-in": [200, 200, *[303] * 7],
    "POST /sign-in": [422] * 9,
    "GET /sign-in/code": ANYONE,
    "POST /sign-in/code": [422] * 9,
    "GET /sign-in/enter": ANYONE,
    "POST /sign-in/enter": [422] * 9,
    "GET /register": ANYONE,
    "POST /register": [422] * 9,
    "GET /forgot": ANYONE,
    "POST /forgot": [422] * 9,
    "GET /reset": ANYONE,
    "POST /reset": [422] * 9,
    "GET /enter/{secret}": [404] * 9,
    "POST /enter/{secret}": [404] * 9,
    "GET /sign-in/with/{provider}": [404] * 9,
    "POST /organization": [*TO_SIGN_IN, 409, 409, 409, 409, 409, 409, 403],
    "GET /usage": CUSTOMERS,
    "GET /requests": CUSTOMERS,
    "GET /requests/refused": CUSTOMERS,
    "GET /requests/{event_id}": OF_ANOTHER,
    "GET /models": CUSTOMERS,
    "GET /keys": CUSTOMERS,
    "GET /keys/new": [*TO_SIGN_IN, 403, 200, 200, 200, 200, 403, 403],
    "POST /keys/new": [*TO_SIGN_IN, 403, 422, 422, 422, 422, 403, 403],
    "GET /keys/leaked": ANYONE,
    "POST /keys/leaked": [422] * 9,
    "GET /keys/{key_id}": OF_ANOTHER,
    "POST /keys/{key_id}": NO_VIEWER,
    "POST /keys/{key_id}/rotate": NO_VIEWER,
    "POST /keys/{key_id}/revoke": NO_VIEWER,
    "GET /credit": CUSTOMERS,
    "POST /credit/buy": REFUSED,
    "POST /credit/coupon": REFUSED,
    "POST /credit/portal": [*TO_SIGN_IN, 403, 403, 200, 200, 200, 403, 403],
    "POST /credit/method": [*TO_SIGN_IN, 403, 403, 200, 200, 200, 403, 403],
    "GET /credit/auto-recharge": CUSTOMERS,
    "POST /credit/auto-recharge": REFUSED,
    "GET /credit/orders": CUSTOMERS,
    "GET /credit/orders/{order_id}": OF_ANOTHER,
    "GET /credit/invoices": CUSTOMERS,
    "GET /credit/transactions": CUSTOMERS,
    "GET /plan": CUSTOMERS,
    "GET /plan/{plan_id}": OF_ANOTHER,
    "POST /plan/{plan_id}": [*TO_SIGN_IN, 403, 403, 404, 404, 404, 403, 403],
    "GET /": [*TO_SIGN_IN, 200, 200, 200, 200, 200, 303, 303],
    **{f"GET /operator{path}": OPERATORS for path in OPERATORS_READ},
    **{f"GET /operator{path}": OPERATORS_NONE for path in OPERATORS_READ_ONE},
    **{f"POST /operator{path}": status for path, status in OPERATORS_CHANGE.items()},
}
"""Statuses in the order of `CALLERS`. Signing out, which ends what the others need, has a test of its own."""
GIVEN: Final = {"secret": "no-such-link", "provider": "none"}
NAMES: Final = ("event_id", "key_id", "order_id", "plan_id", "user_id", "invitation_id", "session_id", "token")
OPERATORS_NAMES: Final = ("account_id", "endpoint_id", "request_id", "parked_id", "delivery_id", "export")
PATHS: Final = {**dict.fromkeys((*NAMES, *OPERATORS_NAMES), "none"), **GIVEN}


async def test_every_page_answers_everybody_as_the_matrix_says(console: Console) -> None:
    declared = {f"{page.method} {page.path}" for page in ROUTES} - {"POST /sign-out"}
    assert declared == MATRIX.keys()
    found = {}
    for row in MATRIX:
        method, path = row.split(" ")
        found[row] = [(await console.ask(method, path.format_map(PATHS), who)).status for who in CALLERS]
    assert found == MATRIX
