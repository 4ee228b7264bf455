"""Shares of a whole, as exact integers. Pure."""

import re
from typing import Final

MILLION: Final = 1_000_000
_SHARE: Final = re.compile(r"(0?\.\d{1,6}|0|1(?:\.0{1,6})?)", re.ASCII)


def parse_share(text: str) -> int:
    """Return millionths of a decimal above 0 to 1, such as "0.25". Raises `ValueError`."""
    if not _SHARE.fullmatch(text):
        raise ValueError("expected a decimal above 0 to 1 with at most 6 decimals")
    whole, _, decimals = text.partition(".")
    millionths = int(whole or "0") * MILLION + int(decimals.ljust(6, "0"))
    if millionths == 0:
        raise ValueError("a share must be above zero")
    return millionths
