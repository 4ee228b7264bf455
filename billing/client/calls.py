"""The calls of the billing API: those of `billing.api.operations`, typed, over whatever carries a request.

Services carry them with `billing.client.client.Client`, commands with `billing.cli.client.CommandClient`, which takes a
tenth of the time to import. No message holds a key. Nothing is repeated by itself, but the calls of services
(`billing.client.service`): a grant that was `Unreachable` is repeated with the same idempotency key. An answer's
`received` is the JSON as it came, with the fields of a newer gateway.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, TypedDict, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from billing.api.operation import Operation
from billing.api.operations import Operations
from billing.client.errors import BadAnswer, Exchanged, refusal
from billing.schemas.base import DEFAULT_TIMEOUT_S
from billing.schemas.decoding import mismatch

# A page of a thousand usage events is about 1 MiB.
ANSWER_LIMIT_BYTES: Final = 32 * 1024 * 1024

A = TypeVar("A")


class ClientAccess(TypedDict, total=False):
    """By what a client gets in, and how long it waits for an answer."""

    admin_key: str | None
    api_key: str | None
    timeout_s: float


class BillingCalls(Operations, ABC):
    """Calls one gateway's billing API: each operation is a method, which takes the ids of its path by position, and the
    fields of its query and body by name. `admin_key` is for operators' calls; `api_key`, an API key or a person's
    token, for the others.

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

    async def call(self, operation: Operation[..., A], *ids: str, **fields: Any) -> A:
        """Carry a call of an operation. Raises `ClientError`."""
        query, body = operation.asked(fields)
        return await self._answered(operation, operation.path_of(*ids), query, body, self._headers)

    async def _answered(
        self,
        operation: Operation[..., A],
        path: str,
        query: Mapping[str, str],
        body: object,
        headers: Mapping[str, str],
    ) -> A:
        sent, data = dict(headers), None
        if body is not None:
            data = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        target = f"{path}?{urlencode(query)}" if query else path
        answered = await self._exchange(operation.method, target, sent, data)
        if not 200 <= answered.status < 300:
            raise refusal(answered, self.base_url)
        return self._read(operation, path, answered)

    def _read(self, operation: Operation[..., A], path: str, answered: Exchanged) -> A:
        shape: Any = operation.answer
        if shape is None:
            return None  # type: ignore[return-value]  # as the operation says
        try:
            received = msgspec.json.decode(answered.body)
            found: Any = msgspec.convert(received, shape)
        except msgspec.ValidationError as error:
            why = mismatch(error, shape)[0].removesuffix(".")
            raise BadAnswer(self.base_url, f"{path}: {why}", answered.status) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadAnswer(self.base_url, f"{path} is no JSON", answered.status) from error
        return found.with_received(received)  # type: ignore[no-any-return]
