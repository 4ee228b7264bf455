"""The account that the first `metergate up` makes, so that the first request works: some credit and a key."""

from dataclasses import dataclass, field
from typing import Final

from billing.money import NANO_PER_USD
from gateway.runtime import Runtime

NAME: Final = "default"
GRANT_NANO: Final = 5 * NANO_PER_USD
GRANT_KEY: Final = "metergate-up-first-account"
"""Fixed, so that a first start that was cut off and repeated grants once."""
NOTE: Final = "first account"


@dataclass(frozen=True, slots=True)
class FirstAccount:
    """`key` is the secret, which can't be had again."""

    account_id: str
    key: str = field(repr=False)


async def make_first_account(runtime: Runtime) -> FirstAccount | None:
    """Make it where there is no account yet, or finish what an earlier start was kept from; None where all is there.

    Raises `DatabaseError`.
    """
    page = await runtime.accounts.page(2)
    match page.items:
        case []:
            account = await runtime.accounts.create(NAME, runtime.settings.defaults.default_plan)
        case [only] if only.name == NAME and not (await runtime.api_keys.page(only.id, 1)).items:
            account = only
        case _:
            return None
    await runtime.grants.grant(account.id, GRANT_NANO, GRANT_KEY, NOTE)
    _, secret = await runtime.api_keys.create(account.id, NAME)
    return FirstAccount(account.id, secret)
