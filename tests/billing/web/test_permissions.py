"""The permission matrix of pages: every page by everybody, with the status that each is answered. A page without a row
fails."""

import pytest

from billing.web.application import ROUTES
from tests.billing.web.paths import PATHS

pytestmark = pytest.mark.slow

# `gone` shows a cookie that is none any more; `stranger` owns another organization; `operator` is a person with that
# right and no organization, `link` came by a link.
CALLERS = ("nobody", "gone", "viewer", "member", "admin", "owner", "stranger", "operator", "link")
TO_SIGN_IN = [303, 303]
ANYONE = [200] * 9
# Pages of an organization that every role reads.
CUSTOMERS = [*TO_SIGN_IN, 200, 200, 200, 200, 200, 403, 403]
# Pages of operators; of what is not there, and forms that lack what they need.
OPERATORS = [*TO_SIGN_IN, *[403] * 5, 200, 200]
OPERATORS_NONE = [*TO_SIGN_IN, *[403] * 5, 404, 404]
OPERATORS_READ = (
    "",
    "/accounts",
    "/keys",
    "/requests",
    "/requests/refused",
    "/payments",
    "/payments/orders",
    "/payments/parked",
    "/payments/events",
    "/payments/differences",
    "/payments/revenue",
    "/accounts/new",
    "/keys/new",
    "/coupons",
    "/payments/returns",
    "/payments/subscriptions",
    "/plans",
    "/prices",
    "/prices/history",
    "/prices/differences",
    "/prices/try",
    "/margin",
    "/providers",
    "/people",
    "/audit",
    "/jobs",
    "/exporters",
    "/exports",
    "/webhooks",
    "/search",
    "/picks",
)
OPERATORS_READ_ONE = (
    "/accounts/{account_id}",
    "/accounts/{account_id}/transactions",
    "/requests/{request_id}",
    "/payments/orders/{order_id}",
    "/people/{user_id}",
    "/providers/{provider}",
    "/webhooks/{endpoint_id}",
    "/plans/{plan_id}",
)
OPERATORS_CHANGE = {
    path: [*TO_SIGN_IN, *[403] * 5, status, status]
    for path, status in {
        "/accounts/new": 422,
        "/accounts/{account_id}/see": 404,
        "/seen/end": 303,
        "/keys/new": 422,
        "/coupons": 422,
        "/coupons/{coupon_id}/end": 404,
        "/webhooks": 422,
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
        "/providers/{provider}/test": 404,
        "/jobs/collect": 503,
        "/exporters/assign": 422,
        "/exports/{export}/retry": 404,
        "/webhooks/{endpoint_id}/test": 404,
        "/webhooks/{endpoint_id}/{delivery_id}/again": 404,
    }.items()
}
OF_ANOTHER = [*TO_SIGN_IN, *[404] * 5, 403, 403]
NO_VIEWER = [*TO_SIGN_IN, 403, 404, 404, 404, 404, 403, 403]
# Pages of something that is not there, what viewers may not do to it, and an empty form for admins and owners.
REFUSED = [*TO_SIGN_IN, 403, 403, 422, 422, 422, 403, 403]
OWNERS = [*TO_SIGN_IN, 403, 403, 403, 422, 422, 403, 403]
ADMINS = [*TO_SIGN_IN, 403, 403, 404, 404, 404, 403, 403]
PERSONS = [*TO_SIGN_IN, *[200] * 6, 403]
WHOLE = [*TO_SIGN_IN, *[422] * 6, 403]
# Statuses in the order of `CALLERS`. Signing out, which ends what the others need, has tests of its own.
MATRIX = {
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
    **{f"GET /operator{path}": OPERATORS for path in OPERATORS_READ},
    **{f"GET /operator{path}": OPERATORS_NONE for path in OPERATORS_READ_ONE},
    **{f"POST /operator{path}": status for path, status in OPERATORS_CHANGE.items()},
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
    "GET /credit/orders/newest": [*TO_SIGN_IN, *[303] * 5, 403, 403],
    "GET /credit/orders/{order_id}": OF_ANOTHER,
    "GET /credit/invoices": CUSTOMERS,
    "GET /credit/transactions": CUSTOMERS,
    "GET /plan": CUSTOMERS,
    "GET /plan/{plan_id}": OF_ANOTHER,
    "GET /plan/{plan_id}/prices": OF_ANOTHER,
    "POST /plan/{plan_id}": ADMINS,
    "GET /directory": CUSTOMERS,
    "POST /directory/tokens": OWNERS,
    "POST /directory/tokens/{token_id}/revoke": [*TO_SIGN_IN, 403, 403, 403, 404, 404, 403, 403],
    "POST /directory/rules": OWNERS,
    "POST /directory/rules/remove": [*TO_SIGN_IN, 403, 403, 403, 303, 303, 403, 403],
    "GET /members": CUSTOMERS,
    "POST /members/invite": REFUSED,
    "POST /members/name": REFUSED,
    "POST /members/invitations/{invitation_id}/resend": ADMINS,
    "POST /members/invitations/{invitation_id}/revoke": ADMINS,
    "GET /members/{user_id}": OF_ANOTHER,
    "POST /members/{user_id}/role": ADMINS,
    "POST /members/{user_id}/limits": ADMINS,
    "POST /members/{user_id}/remove": OF_ANOTHER,
    "POST /members/{user_id}/transfer": [*TO_SIGN_IN, 403, 403, 403, 404, 404, 403, 403],
    "GET /organizations/new": PERSONS,
    "POST /organizations/new": WHOLE,
    "GET /invitations/{token}": [404] * 9,
    "POST /invitations/{token}": [*TO_SIGN_IN, *[404] * 6, 403],
    "GET /security": PERSONS,
    "POST /security/name": WHOLE,
    "POST /security/zone": [*TO_SIGN_IN, *[303] * 6, 403],
    "POST /security/password": WHOLE,
    "POST /security/address": WHOLE,
    "POST /security/address/confirm": WHOLE,
    "POST /security/totp": [*TO_SIGN_IN, *[200] * 5, 409, 403],
    "POST /security/totp/confirm": WHOLE,
    "POST /security/totp/recovery-codes": [*TO_SIGN_IN, *[401] * 6, 403],
    "POST /security/totp/remove": [*TO_SIGN_IN, *[401] * 6, 403],
    "POST /security/sessions/{session_id}/end": [*TO_SIGN_IN, *[404] * 6, 403],
    "GET /security/audit": [*TO_SIGN_IN, 403, 403, 200, 200, 200, 403, 403],
    "GET /alerts": CUSTOMERS,
    "POST /alerts/low-balance": [*TO_SIGN_IN, 403, 403, 303, 303, 303, 403, 403],
    "POST /alerts/budgets": REFUSED,
    "GET /alerts/budgets/{budget_id}": OF_ANOTHER,
    "POST /alerts/budgets/{budget_id}": ADMINS,
    "POST /alerts/budgets/{budget_id}/delete": ADMINS,
    "POST /alerts/webhooks": REFUSED,
    "GET /alerts/webhooks/{endpoint_id}": OF_ANOTHER,
    "POST /alerts/webhooks/{endpoint_id}/turn": ADMINS,
    "POST /alerts/webhooks/{endpoint_id}/test": ADMINS,
    "POST /alerts/webhooks/{endpoint_id}/rotate": ADMINS,
    "POST /alerts/webhooks/{endpoint_id}/delete": ADMINS,
    "POST /alerts/webhooks/{endpoint_id}/deliveries/{delivery_id}/redeliver": ADMINS,
    "GET /quickstart": CUSTOMERS,
    "GET /": [*TO_SIGN_IN, 200, 200, 200, 200, 200, 303, 303],
}


async def test_every_page_answers_everybody_as_the_matrix_says(console):
    declared = {f"{page.method} {page.path}" for page in ROUTES} - {"POST /sign-out", "POST /security/end-all"}
    assert declared == MATRIX.keys()
    found = {}
    for row in MATRIX:
        method, path = row.split(" ")
        found[row] = [(await console.ask(method, path.format_map(PATHS), who)).status for who in CALLERS]
    assert {row: found[row] for row in MATRIX if found[row] != MATRIX[row]} == {}
