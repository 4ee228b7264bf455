"""The billing API's calls: one method a call, typed answers, over whatever carries a request.

Services carry them with `billing.client.BillingClient`, commands with `billing.cli.client.CommandClient`, which takes a
tenth of the time to import. No message holds a key. Nothing is repeated by itself, but the calls of services
(`billing.client.service`): a grant that was `Unreachable` is repeated with the same idempotency key. An answer's
`received` is the JSON as it came, with the fields of a newer gateway.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from billing.answers import BadAnswer, Exchanged, refusal
from billing.pages import DEFAULT_LIMIT
from billing.schemas.accounts import (
    AccountPatch,
    AccountShape,
    Against,
    GrantShape,
    NewAccount,
    NewAdjustment,
    NewGrant,
    NewQuotas,
    UserQuotasShape,
)
from billing.schemas.admin_users import UserDetailShape, UserPatch, UserShape
from billing.schemas.audit import AuditShape
from billing.schemas.base import DEFAULT_TIMEOUT_S, Answer, Listing
from billing.schemas.keys import KeyPatch, KeyShape, NewKey, NewKeyShape
from billing.schemas.mismatch import mismatch
from billing.schemas.quotas import QuotaShape
from billing.schemas.repricing import NewRepricing, RepricingShape
from billing.schemas.system import OperatorSettingsShape, ProviderShape, RefusedShape
from billing.schemas.tokens import LoginLinkShape
from billing.schemas.usage import BalanceShape, EventShape, ExplainedEventShape, TotalsShape, TransactionShape

ANSWER_LIMIT_BYTES: Final = 32 * 1024 * 1024
"""A page of a thousand usage events is about 1 MiB."""

T = TypeVar("T", bound=Answer)


class BillingCalls(ABC):
    """Calls one gateway's billing API. `admin_key` is for the admin calls, `api_key` for those of a customer.

    `timeout_s` bounds each call from its first to its last byte. Raises `ValueError` for a `base_url` that is no
    http(s) URL or that holds a password.
    """

    def __init__(
        self,
        base_url: str,
        *,
        admin_key: str | None = None,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the gateway's URL begins with http:// or https:// and names a host")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("the gateway's URL has no user, password, query or fragment")
        _ = parts.port  # raises ValueError for what is no port
        self.base_url = base_url.rstrip("/")
        self.timeout_s = timeout_s
        self._headers = {"Accept": "application/json"}
        if admin_key is not None:
            self._headers["X-Admin-Key"] = admin_key
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    @abstractmethod
    async def _exchange(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Exchanged:
        """Carry one request to `target`, an encoded path and query below `base_url`.

        Follows no redirect: that could carry a key to another host. Raises `Unreachable`, and `BadAnswer` for a body of
        more than `ANSWER_LIMIT_BYTES`.
        """

    # Admin calls

    async def create_account(
        self,
        name: str,
        *,
        plan: str | None = None,
        credit_limit_usd: str = "0",
        quotas: Sequence[QuotaShape] = (),
    ) -> AccountShape:
        """Create an account with nothing on it; without `plan` on the default one."""
        body = NewAccount(name=name, plan=plan, credit_limit_usd=credit_limit_usd, quotas=quotas)
        return await self._call("POST", "/api/admin/accounts", AccountShape, body=body)

    async def account(self, account_id: str) -> AccountShape:
        """Return an account."""
        return await self._call("GET", f"/api/admin/accounts/{path_part(account_id)}", AccountShape)

    async def accounts(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Listing[AccountShape]:
        """List accounts, newest first."""
        return await self._call("GET", "/api/admin/accounts", Listing[AccountShape], query=page_query(limit, cursor))

    async def update_account(self, account_id: str, changes: AccountPatch) -> AccountShape:
        """Change an account."""
        return await self._call("PATCH", f"/api/admin/accounts/{path_part(account_id)}", AccountShape, body=changes)

    async def set_account_quotas(self, account_id: str, quotas: Sequence[QuotaShape]) -> AccountShape:
        """Replace all quotas of the account's own."""
        path = f"/api/admin/accounts/{path_part(account_id)}/quotas"
        return await self._call("PUT", path, AccountShape, body=NewQuotas(quotas=quotas))

    async def user_quotas(self, account_id: str, user_id: str) -> UserQuotasShape:
        """Return the quotas of a user in the account, which all of the user's keys in it share."""
        path = f"/api/admin/accounts/{path_part(account_id)}/users/{path_part(user_id)}/quotas"
        return await self._call("GET", path, UserQuotasShape)

    async def set_user_quotas(self, account_id: str, user_id: str, quotas: Sequence[QuotaShape]) -> UserQuotasShape:
        """Replace all quotas of a user in the account."""
        path = f"/api/admin/accounts/{path_part(account_id)}/users/{path_part(user_id)}/quotas"
        return await self._call("PUT", path, UserQuotasShape, body=NewQuotas(quotas=quotas))

    async def grant(
        self, account_id: str, amount_usd: str, *, idempotency_key: str, note: str | None = None
    ) -> GrantShape:
        """Give credit, once for an idempotency key: the same again gets the first answer."""
        body = NewGrant(amount_usd=amount_usd, idempotency_key=idempotency_key, note=note)
        return await self._call("POST", f"/api/admin/accounts/{path_part(account_id)}/grants", GrantShape, body=body)

    async def refund(
        self, account_id: str, amount_usd: str, *, idempotency_key: str, note: str | None = None
    ) -> GrantShape:
        """Give back what was charged, once for an idempotency key, as `grant` does."""
        body = NewGrant(amount_usd=amount_usd, idempotency_key=idempotency_key, note=note)
        return await self._call("POST", f"/api/admin/accounts/{path_part(account_id)}/refunds", GrantShape, body=body)

    async def adjust(
        self, account_id: str, amount_usd: str, *, idempotency_key: str, reason: str, against: Against = "write_off"
    ) -> GrantShape:
        """Change a balance up or, below zero, down, once for an idempotency key, as `grant` does."""
        body = NewAdjustment(amount_usd=amount_usd, idempotency_key=idempotency_key, reason=reason, against=against)
        return await self._call(
            "POST", f"/api/admin/accounts/{path_part(account_id)}/adjustments", GrantShape, body=body
        )

    async def reprice(
        self, repricing: NewRepricing, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> RepricingShape:
        """Compare a batch of requests with another price, and charge them by it where it is no dry run."""
        query = page_query(limit, cursor)
        return await self._call("POST", "/api/admin/reprice", RepricingShape, body=repricing, query=query)

    async def audit(
        self, only: Mapping[str, str | None], *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[AuditShape]:
        """List who did what, newest first: `only` are filters by their names in the query."""
        return await self._call(
            "GET", "/api/admin/audit", Listing[AuditShape], query={**only, **page_query(limit, cursor)}
        )

    async def users(
        self,
        *,
        status: str | None = None,
        email: str | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Listing[UserShape]:
        """List people, newest first."""
        query = {"status": status, "email": email, **page_query(limit, cursor)}
        return await self._call("GET", "/api/admin/users", Listing[UserShape], query=query)

    async def user(self, user_id: str) -> UserDetailShape:
        """Return a user."""
        return await self._call("GET", f"/api/admin/users/{path_part(user_id)}", UserDetailShape)

    async def update_user(self, user_id: str, changes: UserPatch) -> UserDetailShape:
        """Let a user in or out, or make them an operator or none."""
        return await self._call("PATCH", f"/api/admin/users/{path_part(user_id)}", UserDetailShape, body=changes)

    async def create_key(self, key: NewKey) -> NewKeyShape:
        """Create a key. The answer holds the secret."""
        return await self._call("POST", "/api/admin/keys", NewKeyShape, body=key)

    async def key(self, key_id: str) -> KeyShape:
        """Return a key without its secret."""
        return await self._call("GET", f"/api/admin/keys/{path_part(key_id)}", KeyShape)

    async def keys(
        self, account_id: str | None = None, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Listing[KeyShape]:
        """List keys of one account, or of all, revoked ones included."""
        query = {"account_id": account_id, **page_query(limit, cursor)}
        return await self._call("GET", "/api/admin/keys", Listing[KeyShape], query=query)

    async def update_key(self, key_id: str, changes: KeyPatch) -> KeyShape:
        """Change a key."""
        return await self._call("PATCH", f"/api/admin/keys/{path_part(key_id)}", KeyShape, body=changes)

    async def revoke_key(self, key_id: str) -> None:
        """Make a key invalid on every gateway within a second; revoking it again does nothing."""
        await self._send("DELETE", f"/api/admin/keys/{path_part(key_id)}")

    async def refusals(
        self, *, key_id: str | None = None, account_id: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Listing[RefusedShape]:
        """List the last requests that were refused: of a key, of an account's keys, or of all."""
        query = {"key_id": key_id, "account_id": account_id, "limit": str(limit)}
        return await self._call("GET", "/api/admin/refusals", Listing[RefusedShape], query=query)

    async def operator_settings(self) -> OperatorSettingsShape:
        """Return the settings that operators' commands go by."""
        return await self._call("GET", "/api/admin/settings", OperatorSettingsShape)

    async def login_link(self) -> LoginLinkShape:
        """Make a link by which an operator signs in to the console, once and soon."""
        return await self._call("POST", "/api/admin/login-links", LoginLinkShape)

    async def providers(self) -> Listing[ProviderShape]:
        """List the providers of the configuration and the health of their targets."""
        return await self._call("GET", "/api/admin/providers", Listing[ProviderShape])

    # A customer's reads

    async def balance(self) -> BalanceShape:
        """Return the balance."""
        return await self._call("GET", "/api/account/balance", BalanceShape)

    async def transactions(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Listing[TransactionShape]:
        """List every change of the balance, newest first."""
        query = page_query(limit, cursor)
        return await self._call("GET", "/api/account/transactions", Listing[TransactionShape], query=query)

    async def usage_events(
        self,
        *,
        since: str | None = None,
        until: str | None = None,
        key_id: str | None = None,
        model: str | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Listing[EventShape]:
        """List requests admitted from `since` on and before `until`, newest first."""
        query = {"since": since, "until": until, "key_id": key_id, "model": model, **page_query(limit, cursor)}
        return await self._call("GET", "/api/account/usage/events", Listing[EventShape], query=query)

    async def usage_event(self, event_id: str) -> ExplainedEventShape:
        """Return one request, with the lines of its charge."""
        return await self._call("GET", f"/api/account/usage/events/{path_part(event_id)}", ExplainedEventShape)

    async def usage(self, *, key_id: str | None = None, user_id: str | None = None) -> TotalsShape:
        """Return totals of the account, of one key, or of one user's keys."""
        query = {"key_id": key_id, "user_id": user_id}
        return await self._call("GET", "/api/billing/usage", TotalsShape, query=query)

    async def _call(
        self,
        method: str,
        path: str,
        shape: type[T],
        *,
        body: object = None,
        query: dict[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        answered = await self._send(method, path, body, query, headers)
        try:
            received = msgspec.json.decode(answered.body)
            return msgspec.convert(received, shape).with_received(received)
        except msgspec.ValidationError as error:
            why = mismatch(error, shape)[0].removesuffix(".")
            raise BadAnswer(self.base_url, f"{path}: {why}", answered.status) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadAnswer(self.base_url, f"{path} is no JSON", answered.status) from error

    async def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        query: dict[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Exchanged:
        """Carry a call with the client's own headers, or with `headers` in their place."""
        sent = dict(self._headers if headers is None else headers)
        data = None if body is None else msgspec.json.encode(body)
        if data is not None:
            sent["Content-Type"] = "application/json"
        asked = urlencode({name: value for name, value in (query or {}).items() if value is not None})
        answered = await self._exchange(method, f"{path}?{asked}" if asked else path, sent, data)
        if 200 <= answered.status < 300:
            return answered
        raise refusal(answered, self.base_url)


def path_part(segment: str) -> str:
    """Return a text as one segment of a path, whatever it holds."""
    return quote(segment, safe="") or "-"


def page_query(limit: int, cursor: str | None) -> dict[str, str | None]:
    """Return the query that asks for a page."""
    return {"limit": str(limit), "cursor": cursor}
