"""What each layer's exceptions say to the person at the terminal, and the exit code that they end with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qs, urlsplit

from billing.cli.commands import REFUSED, UNREACHABLE, CommandFailed
from billing.database.connection import DatabaseError, DatabaseHindered, DatabaseUnavailable
from billing.database.migrate import MigrationError
from billing.holds.epochs import NotReady
from billing.holds.redis.connection import RedisError, RedisRefused
from gateway.commands.data_folder import explained_misuse
from gateway.embedded.folders import EmbeddedServersError

_DOCTOR: Final = "`metergate doctor` says more."


@contextmanager
def explained_failures() -> Iterator[None]:
    """Turn what the layers below raise into `CommandFailed`."""
    try:
        with explained_misuse():
            yield
    except EmbeddedServersError as error:
        raise CommandFailed(str(error), REFUSED) from error
    except MigrationError as error:
        raise CommandFailed(str(error), REFUSED) from error
    except DatabaseHindered as error:
        raise CommandFailed(f"{error}. {_DOCTOR}", REFUSED) from error
    except DatabaseUnavailable as error:
        raise CommandFailed(f"{error}. {_DOCTOR}", UNREACHABLE) from error
    except DatabaseError as error:
        raise CommandFailed(f"Postgres refused: {error}. {_DOCTOR}", REFUSED) from error
    except RedisRefused as error:
        raise CommandFailed(f"Redis refused: {error}. {_DOCTOR}", REFUSED) from error
    except (RedisError, NotReady) as error:
        raise CommandFailed(f"{error}. {_DOCTOR}", UNREACHABLE) from error
    except TimeoutError as error:
        raise CommandFailed(f"A store did not answer in time. {_DOCTOR}", UNREACHABLE) from error


@contextmanager
def named_store(url: str) -> Iterator[None]:
    """Name a store that is away by its address."""
    try:
        yield
    except (DatabaseUnavailable, RedisError) as error:
        if isinstance(error, RedisRefused | DatabaseHindered):
            raise
        message = f"{error} ({shown_url(url)}). Check that it runs there and that this machine may reach it."
        raise CommandFailed(message, UNREACHABLE) from error


def shown_url(url: str) -> str:
    """Return a store's URL without user, password and options; a socket's folder is kept."""
    parts = urlsplit(url)
    host = parts.hostname or ", ".join(parse_qs(parts.query).get("host", ()))
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"
