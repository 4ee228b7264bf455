"""What seals secrets in Postgres, and whether it opens those that lie there: asked before anything is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from billing.database.connection import Database, queries
from billing.identity.encryption import Sealer
from gateway.config.secret import revealed

if TYPE_CHECKING:
    from gateway.config.settings import Settings

_query = queries("billing.identity")


def sealer_of(settings: Settings) -> Sealer:
    """Return what seals secrets that lie in Postgres."""
    return Sealer(revealed(settings.secrets_key), revealed(settings.secrets_key_before))


async def check_encryption(database: Database, settings: Settings) -> int:
    """Open every key that signs, and the first and the last secret of an authenticator app; how many were sealed.
    Raises `SealBroken` where one can't be opened, and `DatabaseError`."""
    sealer = sealer_of(settings)
    rows = await database.rows(_query("sealed_some"), settings.jwt_secret is None)
    for row in rows:
        sealer.open(row["stored"], row["what"])
    return len(rows)
