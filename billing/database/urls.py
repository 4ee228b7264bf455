"""`DATABASE_URL`: Postgres's URL with one additional parameter, as the driver and Postgres's programs take it. Pure."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

# The URL's parameter that says how many prepared statements a connection keeps.
CACHE_SIZE: Final = "statement_cache_size"
MOST_CACHED: Final = 10_000


def split_url(url: str) -> tuple[str, int | None]:
    """Return a URL without its `statement_cache_size`, which is for the driver, and that size, None where absent.

    Raises `ValueError` for a size that is not a whole number from 0 to MOST_CACHED.
    """
    base, mark, query = url.partition("?")
    options = [option.partition("=") for option in query.split("&")]
    sizes = [value for name, _, value in options if name == CACHE_SIZE]
    if not sizes:
        return url, None
    if not sizes[-1].isascii() or not sizes[-1].isdigit() or int(sizes[-1]) > MOST_CACHED:
        raise ValueError(f"{CACHE_SIZE} in DATABASE_URL must be a whole number from 0 to {MOST_CACHED}")
    rest = "&".join("".join(option) for option in options if option[0] != CACHE_SIZE)
    return f"{base}{mark}{rest}" if rest else base, int(sizes[-1])


def program_target(url: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return the options that name a database to a program of Postgres's, and the variables with its password."""
    parts = urlsplit(split_url(url)[0])
    who, at, where = parts.netloc.rpartition("@")
    user, colon, password = who.partition(":")
    query = [pair for pair in parts.query.split("&") if pair and not pair.startswith("password=")]
    hidden = [pair.partition("=")[2] for pair in parts.query.split("&") if pair.startswith("password=")]
    shown = urlunsplit(parts._replace(netloc=f"{user}{at}{where}", query="&".join(query)))
    secret = hidden[-1] if hidden else password if colon else None
    return ("--no-password", f"--dbname={shown}"), {} if secret is None else {"PGPASSWORD": unquote(secret)}
