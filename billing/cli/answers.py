"""What the billing API's client raises, said to a person at a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from billing.cli.failures import REFUSED, UNREACHABLE, CommandFailed
from billing.client import ClientError, Refused, Unreachable

_UNAUTHORIZED: Final = 401
_AWAY: Final = 503


@contextmanager
def explained() -> Iterator[None]:
    """Turns what the client raises into `CommandFailed`."""
    try:
        yield
    except Refused as error:
        raise CommandFailed(_refusal(error), UNREACHABLE if error.status == _AWAY else REFUSED) from error
    except Unreachable as error:
        message = f"{error} Check --api-url or METERGATE_API_URL, and that the gateway runs there."
        raise CommandFailed(message, UNREACHABLE) from error
    except ClientError as error:
        raise CommandFailed(f"{error} Check --api-url or METERGATE_API_URL.", UNREACHABLE) from error


def _refusal(error: Refused) -> str:
    if error.status == _UNAUTHORIZED:
        return f"{error.message} Set ADMIN_API_KEY, or name a file that holds the admin key with --token-file."
    return f"{error.message} ({error.code})"
