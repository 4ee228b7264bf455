"""/api/orgs/{org_id}/group-rules and /scim: what owners say of their organization's directory; and operators, which
domains of addresses it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from billing.api.operations import DirectoryOperations
from billing.api.requests import listing, page_asked
from billing.api.route import Call, serves
from billing.identity.directories import GroupRule
from billing.identity.organizations import Acting
from billing.quotas import parse_quotas
from billing.schemas.directories import (
    DirectoryShape,
    Domains,
    DomainsShape,
    NewScimToken,
    NewScimTokenShape,
    RuleShape,
    RulesOfGroups,
    RulesOfGroupsShape,
    ScimTokenShape,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from billing.schemas.base import Listing, PageQuery


@serves(DirectoryOperations.group_rules)
async def get_group_rules(call: Call) -> RulesOfGroupsShape:
    """Return what the groups of the organization's directory give, in the order in which the first that applies
    counts."""
    return _shown(await call.services.scim.directories.rules(call.id("org_id")))


@serves(DirectoryOperations.set_group_rules)
async def set_group_rules(call: Call, body: RulesOfGroups) -> RulesOfGroupsShape:
    """Replace what the groups of the organization's directory give. It applies to whom SCIM has provisioned at once, to
    others when they next sign in. Owners stay owners."""
    rules = [
        GroupRule(
            group=each.group,
            role=each.role,
            max_keys=each.max_keys,
            quotas=None if each.quotas is None else parse_quotas(each.quotas),
        )
        for each in body.rules
    ]
    return _shown(await call.services.scim.directories.set_rules(call.id("org_id"), rules, _acting(call)))


def _shown(rules: Iterable[GroupRule]) -> RulesOfGroupsShape:
    return RulesOfGroupsShape(rules=[RuleShape.of(rule) for rule in rules])


@serves(DirectoryOperations.directory)
async def get_directory(call: Call) -> DirectoryShape:
    """Return where the organization's directory calls SCIM, and what it has here."""
    services, org_id = call.services, call.id("org_id")
    counts, domains = await services.scim.directory.counts(org_id), await services.scim.directories.domains(org_id)
    return DirectoryShape.of(counts, url=services.scim.url, domains=domains)


@serves(DirectoryOperations.scim_tokens)
async def list_scim_tokens(call: Call, query: PageQuery) -> Listing[ScimTokenShape]:
    """List the tokens by which the organization's directory calls SCIM, newest first; revoked ones stay listed."""
    return listing(await call.services.scim.tokens.page(call.id("org_id"), *page_asked(query)), ScimTokenShape.of)


@serves(DirectoryOperations.create_scim_token)
async def create_scim_token(call: Call, body: NewScimToken) -> NewScimTokenShape:
    """Make a token for the organization's directory. The answer holds its secret. It opens SCIM and nothing else."""
    token, secret = await call.services.scim.tokens.create(call.id("org_id"), body.name, _acting(call))
    return NewScimTokenShape.of(token, token=secret)


@serves(DirectoryOperations.revoke_scim_token)
async def revoke_scim_token(call: Call) -> None:
    """Revoke a token of SCIM from the next call on; one that is revoked already stays so."""
    await call.services.scim.tokens.revoke(call.id("org_id"), call.id("token_id"), _acting(call))


@serves(DirectoryOperations.organization_domains)
async def get_organization_domains(call: Call) -> DomainsShape:
    """Return the domains of addresses that are an organization's own."""
    org_id = (await call.services.organizations.get(call.id("org_id"))).id
    return DomainsShape(domains=await call.services.scim.directories.domains(org_id))


@serves(DirectoryOperations.set_organization_domains)
async def set_organization_domains(call: Call, body: Domains) -> DomainsShape:
    """Replace the domains of addresses that are an organization's own. Make sure that they are
    theirs: whoever proves such an address becomes a member."""
    found = await call.services.scim.directories.set_domains(call.id("org_id"), body.domains, call.actor)
    return DomainsShape(domains=found)


def _acting(call: Call) -> Acting:
    return Acting(call.caller.id, call.caller.scopes, call.actor)
