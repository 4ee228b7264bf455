"""Buckets of S3-compatible stores, as everything here opens them: `s3://BUCKET/PREFIX`.

Their keys, region and endpoint are read from the variables that every client of S3 reads (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL). What the library says of a failure names the request, never a key.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from billing.errors import MetergateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from obstore.store import S3Store

SCHEME: Final = "s3://"
ENDPOINT: Final = "AWS_ENDPOINT_URL"
SAID_CHARACTERS: Final = 300


class StoreFailed(MetergateError):
    """A bucket can't be opened, read or written. The message says why."""


class NoSuchBucket(StoreFailed):
    """A place is no bucket, or the library for buckets is not installed."""


def in_bucket(place: str) -> bool:
    """Return whether a place is one of S3."""
    return place.startswith(SCHEME)


def open_bucket(place: str, environ: Mapping[str, str], *, tries: int, tried_s: float) -> S3Store:
    """Open `s3://BUCKET/PREFIX`; a request that fails is made again, up to `tries` times and for `tried_s`. Raises
    `StoreFailed`."""
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise NoSuchBucket("A bucket needs the library obstore: install metergate[s3].") from error
    name, _, prefix = place.removeprefix(SCHEME).partition("/")
    if not name:
        raise NoSuchBucket(f"{place}: a bucket is named s3://BUCKET/PREFIX.")
    insecure = environ.get(ENDPOINT, "").startswith("http://")
    with explained(place):
        return S3Store(
            name,
            prefix=prefix.rstrip("/") or None,
            client_options={"allow_http": insecure},
            retry_config={"max_retries": tries, "retry_timeout": timedelta(seconds=tried_s)},
        )


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn what the library raises into `StoreFailed`."""
    try:
        yield
    except Exception as error:
        from obstore.exceptions import BaseError

        if not isinstance(error, BaseError | FileNotFoundError | PermissionError):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise StoreFailed(f"{place}: {lines[0][:SAID_CHARACTERS]}") from error
