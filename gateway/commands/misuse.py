"""Messages for the terminal about a wrong environment, configuration or key file."""

from collections.abc import Iterator
from contextlib import contextmanager

from billing.cli.output import USAGE, CommandFailed
from gateway.commands.first_start import BadKeyFile
from gateway.config.problems import ConfigError


@contextmanager
def explained_misuse() -> Iterator[None]:
    """Turn what reading them raises into `CommandFailed`."""
    try:
        yield
    except ConfigError as error:
        raise CommandFailed(f"The configuration can't be used:\n{error}", USAGE) from error
    except BadKeyFile as error:
        raise CommandFailed(str(error), USAGE) from error
