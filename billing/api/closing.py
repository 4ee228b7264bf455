"""/api/orgs/{org_id}/close: an owner ends what an organization pays for.

This file owns that nothing is closed which still owes or is owed: no debt, no plan that goes on being paid, no request
that runs, and credit only where its owner says that it may be left. The organization stays to be read by its members,
with its usage and its transactions; an operator may open its account again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from billing.api.route import Access, Call, Route
from billing.api.usage import live_balance
from billing.identity.members import Acting
from billing.identity.organizations import OrganizationConflict
from billing.identity.permissions import ORG_TRANSFER
from billing.money import format_usd
from billing.shapes.organizations import Closing, OrganizationShape, organization_shape

if TYPE_CHECKING:
    from billing.accounts.accounts import Account
    from billing.effects import LiveBalance
    from billing.plans import Plans

CLOSE: Final = "/api/orgs/{org_id}/close"
CLOSED: Final = "closed"


async def close_organization(call: Call, body: Closing) -> OrganizationShape:
    """Close an organization's account: nothing is spent there any more, and its open invitations end. Its members may
    read it as before."""
    services, caller = call.services, call.caller
    organization = await services.organizations.get(call.id("org_id"))
    account = await services.accounts.get(organization.account_id)
    if account.status != CLOSED:
        refuse_closing(account, await live_balance(services, account), services.plans, forfeit=body.forfeit)
        await services.members.end_invitations(organization.id, Acting(caller.id, caller.scopes, call.actor))
        await services.accounts.update(account.id, status=CLOSED, reason="closed by its owner", actor=call.actor)
    return organization_shape(organization, caller.role)


def refuse_closing(account: Account, live: LiveBalance, plans: Plans, *, forfeit: bool) -> None:
    """Reject an account that can't be closed as it stands. Raises `OrganizationConflict`, which says what to do."""
    if account.status != "active":
        raise OrganizationConflict(f"This account is {account.status}: mend that first, `metergate billing status`.")
    if live.balance_nano < 0:
        owed = format_usd(-live.balance_nano)
        raise OrganizationConflict(f"This account owes {owed} USD: pay it first, `metergate billing setup`.")
    plan = plans.get(account.plan)
    if plan is not None and plan.price_nano > 0:
        raise OrganizationConflict(
            f"The plan {plan.name} is paid each month: end it first, `metergate billing portal`."
        )
    if live.held_nano > 0:
        raise OrganizationConflict("Requests of this account are running: close it when they have ended.")
    if live.balance_nano > 0 and not forfeit:
        left = format_usd(live.balance_nano)
        raise OrganizationConflict(f'{left} USD are left: use them, ask for a refund, or send {{"forfeit": true}}.')


ROUTES: Final = (
    Route(
        *("POST", CLOSE, close_organization, Access.person, OrganizationShape),
        body=Closing,
        body_optional=True,
        scope=ORG_TRANSFER,
        whole=True,
        errors=(409,),
    ),
)
