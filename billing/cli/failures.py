"""How a command fails: one plain sentence on stderr that says what to do, and an exit code. Never a traceback.

0  done     1  refused     2  wrong usage     3  unreachable
"""

from typing import Final

from billing.errors import MetergateError

REFUSED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3


class CommandFailed(MetergateError):
    """Ends a command with a sentence on stderr and an exit code."""

    def __init__(self, message: str, code: int = REFUSED) -> None:
        super().__init__(message)
        self.code = code
