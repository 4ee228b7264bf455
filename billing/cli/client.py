"""The billing API's calls for a command: over the standard library's HTTP client, a connection for each call.

aiohttp takes longer to import than everything else that a command needs. A command waits for one answer at a time, so
that a call may block its event loop.
"""

import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from socket import gaierror, socket
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from billing.cli.commands import interruptible
from billing.client.calls import ANSWER_LIMIT_BYTES, BillingCalls
from billing.client.errors import BadAnswer, Exchanged, Unreachable, refusal

_CHUNK_BYTES: Final = 64 * 1024
# What stays as it is in a path (https://www.rfc-editor.org/rfc/rfc3986#section-3.3).
_IN_PATH: Final = "/%:@!$&'()*+,;=~"


class CommandClient(BillingCalls):
    """Calls one gateway's billing API from a command, as `BillingCalls` says. For the main thread."""

    async def download(
        self, path: str, query: Mapping[str, str | None], media: str, take: Callable[[bytes], None]
    ) -> None:
        """Have the answer of a GET taken part by part, however long it is; `timeout_s` bounds the wait for each part.

        Raises as other calls, and what `take` raises.
        """
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        headers = {**self._headers, "Accept": media}
        with self._request("GET", f"{path}?{asked}", headers, None) as (response, link):
            if response.status != HTTPStatus.OK:
                received = self._received(response, link, time.monotonic() + self.timeout_s)
                raise refusal(_exchanged(response, received), self.base_url)
            for part in self._parts(response, link, None):
                take(part)

    async def _exchange(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Exchanged:
        ends_s = time.monotonic() + self.timeout_s
        with self._request(method, target, headers, body) as (response, link):
            return _exchanged(response, self._received(response, link, ends_s))

    @contextmanager
    def _request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> Iterator[tuple[HTTPResponse, socket]]:
        """Yield the beginning of an answer, and its socket, which the response closes with its last byte. Raises
        `Unreachable` for what fails until the end of the `with`."""
        base = urlsplit(self.base_url)
        kind = HTTPSConnection if base.scheme == "https" else HTTPConnection
        ends_s = time.monotonic() + self.timeout_s
        try:
            with interruptible(), closing(kind(base.netloc, timeout=self.timeout_s)) as connection:
                connection.request(method, quote(base.path, _IN_PATH) + target, body, _encoded(headers))
                link: socket = connection.sock
                link.settimeout(_left_s(ends_s))
                yield connection.getresponse(), link
        except TimeoutError as error:
            raise Unreachable(self.base_url, f"no answer within {self.timeout_s:g} s") from error
        except (HTTPException, OSError) as error:
            raise Unreachable(self.base_url, _why(error)) from error

    def _received(self, response: HTTPResponse, link: socket, ends_s: float) -> bytes:
        """Return the body. Raises `TimeoutError`, `IncompleteRead`, and `BadAnswer` for too much."""
        received = bytearray()
        for part in self._parts(response, link, ends_s):
            received += part
            if len(received) > ANSWER_LIMIT_BYTES:
                raise BadAnswer(self.base_url, f"an answer of more than {ANSWER_LIMIT_BYTES} bytes")
        return bytes(received)

    def _parts(self, response: HTTPResponse, link: socket, ends_s: float | None) -> Iterator[bytes]:
        """Yield the body as it comes, until `ends_s`, or with `timeout_s` for each part. Raises as `_received`."""
        while not response.isclosed():
            link.settimeout(self.timeout_s if ends_s is None else _left_s(ends_s))
            part = response.read1(_CHUNK_BYTES)
            if not part:
                break
            yield part
        if response.length:
            raise IncompleteRead(b"", response.length)


def _exchanged(response: HTTPResponse, received: bytes) -> Exchanged:
    return Exchanged(response.status, {name.lower(): text for name, text in response.getheaders()}, received)


def _encoded(headers: Mapping[str, str]) -> dict[str, bytes]:
    """Return headers as bytes in UTF-8, as aiohttp sends them; `http.client` would take Latin-1."""
    return {name: text.encode() for name, text in headers.items()}


def _left_s(ends_s: float) -> float:
    """Return what is left until `ends_s` of the monotonic clock. Raises `TimeoutError`."""
    left_s = ends_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _why(error: HTTPException | OSError) -> str:
    if isinstance(error, gaierror):
        return "its host name is not known"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno).lower()
    return "the connection broke"
