"""The billing API's client for services: the calls of `billing.calls` on connections that it keeps.

async with BillingClient("https://gateway.example.com", admin_key=key) as client:
    account = await client.create_account("Acme")
"""

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp

from billing.calls import ANSWER_LIMIT_BYTES, BadAnswer, ClientError, Refused, Unreachable
from billing.credit_calls import CreditCalls
from billing.shapes.base import DEFAULT_TIMEOUT_S

__all__ = ["ANSWER_LIMIT_BYTES", "BadAnswer", "BillingClient", "ClientError", "Refused", "Unreachable"]


class BillingClient(CreditCalls):
    """Calls one gateway's billing API, within its `async with`, as `BillingCalls` says.

    With `unix_socket` the connection goes there and `base_url` only names it.
    """

    def __init__(
        self,
        base_url: str,
        *,
        admin_key: str | None = None,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        unix_socket: str | None = None,
    ) -> None:
        super().__init__(base_url, admin_key=admin_key, api_key=api_key, timeout_s=timeout_s)
        self._unix_socket = unix_socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = None if self._unix_socket is None else aiohttp.UnixConnector(self._unix_socket)
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("the client is used outside its context")
        try:
            async with self._session.request(
                method, self.base_url + target, data=body, headers=headers, allow_redirects=False
            ) as response:
                return response.status, await self._read(response)
        except TimeoutError as error:
            raise Unreachable(self.base_url, f"no answer within {self.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(self.base_url, _why(error)) from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        received = bytearray()
        async for chunk in response.content.iter_any():
            received += chunk
            if len(received) > ANSWER_LIMIT_BYTES:
                raise BadAnswer(self.base_url, f"an answer of more than {ANSWER_LIMIT_BYTES} bytes")
        return bytes(received)


def _why(error: aiohttp.ClientError | OSError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name is not known"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.os_error.errno).lower() if error.os_error.errno else "no connection"
    return "the connection broke"
