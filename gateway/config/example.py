"""`.env.example` as text, made from the variables: `metergate init` writes it; the checkout's file must equal it."""

from typing import Final

from gateway.config.variables import GROUPS

_HEAD: Final = """\
# Every variable that Metergate reads, with its default. Copy to .env, which docker compose reads by itself; for a
# shell: set -a; . ./.env; set +a. A variable set to nothing counts as unset.
"""


def environment_example() -> str:
    """Give the text of `.env.example`: every variable under its group, after a line that says what it is for."""
    parts = [_HEAD]
    for group in GROUPS:
        lines = [f"# {variable.help}\n{variable.name}={variable.default}\n" for variable in group.variables]
        parts.append("".join((f"# --- {group.title} ---\n", *lines)))
    return "\n".join(parts)
