"""How a command fails: one plain sentence on stderr that says what to do, and an exit code. Never a traceback.

0  done     1  refused     2  wrong usage     3  unreachable
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from billing.client import ClientError, Refused, Unreachable

REFUSED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3

_UNAUTHORIZED: Final = 401


class CommandFailed(Exception):
    """Ends a command with a sentence on stderr and an exit code."""

    def __init__(self, message: str, code: int = REFUSED) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def explained() -> Iterator[None]:
    """Turns what the client raises into `CommandFailed`."""
    try:
        yield
    except Refused as error:
        raise CommandFailed(_refusal(error)) from error
    except Unreachable as error:
        message = f"{error} Check --api-url or METERGATE_API_URL, and that the gateway runs there."
        raise CommandFailed(message, UNREACHABLE) from error
    except ClientError as error:
        raise CommandFailed(f"{error} Check --api-url or METERGATE_API_URL.", UNREACHABLE) from error


def _refusal(error: Refused) -> str:
    if error.status == _UNAUTHORIZED:
        return f"{error.message} Set ADMIN_API_KEY, or name a file that holds the admin key with --token-file."
    return f"{error.message} ({error.code})"
