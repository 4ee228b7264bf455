"""`metergate org scim`: the organization's directory, the tokens by which it calls, and what its groups give. And
`metergate operator org`: the domains of addresses that are an organization's own."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from billing.api.operations import DirectoryOperations
from billing.cli.calls import Org, add_calls, add_person_calls, argument, command_of, organization_id, revoked
from billing.cli.commands import Connect, group
from billing.cli.options import quotas_of, quotas_text
from billing.cli.output import CommandFailed, Shown, cell, columns, details, page_parts
from billing.cli.session import FindSession
from billing.cli.tables import Table
from billing.schemas.directories import RuleBody, RuleRole

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.directories import (
        DirectoryShape,
        DomainsShape,
        NewScimTokenShape,
        RuleShape,
        RulesOfGroupsShape,
    )

# The group of a rule that everybody is in, which comes last.
_EVERYONE: Final = "*"
_TOKENS: Final = columns(
    "id", "name", "prefix", ("made by", "created_by"), "created_at", "last_used_at", "revoked_at", folded=("made by",)
)


def add_scim(app: typer.Typer, find: FindSession) -> None:
    """Add the group `scim`."""
    scim = group("The directory of a company: what its groups give, and tokens by which it calls SCIM.")
    of = DirectoryOperations
    add_person_calls(
        scim,
        find,
        show=command_of(of.directory, "Show where the directory calls, and what it has here.", _shown),
        tokens=command_of(of.scim_tokens, "List tokens, newest first. Includes those that were revoked.", _TOKENS),
        create_token=command_of(
            of.create_scim_token,
            "Create a token for the directory. It is printed once.",
            _shown_new,
            {"name": argument("What it is for, such as Okta.")},
        ),
        revoke_token=command_of(
            of.revoke_scim_token,
            "Revoke a token. The directory's next call with it is refused.",
            revoked,
            {"token_id": argument("sct_...", "TOKEN_ID")},
        ),
        rules=command_of(of.group_rules, "List what groups give. The first that applies counts.", _shown_rules),
        rule=rule,
        remove_rule=remove_rule,
    )
    app.add_typer(scim, name="scim")


def _shown(directory: "DirectoryShape", _: object) -> Shown:
    rows = [
        ("SCIM's address", directory.url),
        ("domains", ", ".join(directory.domains) or "none: whoever runs the gateway adds them"),
        ("people", str(directory.people)),
        ("of other domains", f"{directory.outside}: they join by invitation alone" if directory.outside else "none"),
        ("groups", str(directory.groups)),
    ]
    return details(directory, rows)


def _shown_new(made: "NewScimTokenShape", _: object) -> Shown:
    rows = [("id", made.id), ("name", made.name), ("token", made.token)]
    return details(made, rows, "The token is shown only now: enter it in the directory.", secret=True)


def _shown_rules(found: "RulesOfGroupsShape", _: object) -> Shown:
    rows = [
        (
            each.group,
            each.role,
            cell(each.max_keys),
            "as they are" if each.quotas is None else quotas_text(each.quotas),
        )
        for each in found.rules
    ]
    return Shown(found.received, page_parts(Table(("group", "role", "keys at most", "limits"), rows)))


async def rule(
    client: "BillingCalls",
    name: Annotated[str, typer.Argument(metavar="GROUP", help="The group's name, or its id there; * is everybody.")],
    role: Annotated[RuleRole, typer.Argument(metavar="ROLE", help="What its members are: admin, member or viewer.")],
    *,
    max_keys: Annotated[
        int | None, typer.Option("--max-keys", metavar="N", min=0, help="Keys that each may have.", show_default=False)
    ] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(
            "--quota",
            metavar="WINDOW:METRIC=LIMIT",
            help="What each may use with all keys, such as month:cost=50; may be given several times.",
            show_default=False,
        ),
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="It counts before all others.")] = False,
    org: Org = None,
) -> Shown:
    """Have a group give a role, and how much its members may do. A rule of the group that is there is replaced."""
    org_id = await organization_id(client, org)
    rules = [_sent(each) for each in (await client.group_rules(org_id)).rules]
    made = RuleBody(group=name, role=role, max_keys=max_keys, quotas=quotas_of(quota) if quota else None)
    at = next((n for n, each in enumerate(rules) if each.group.casefold() == name.casefold()), None)
    if at is not None:
        del rules[at]
    elif name != _EVERYONE:
        at = next((n for n, each in enumerate(rules) if each.group == _EVERYONE), None)
    rules.insert(0 if first else len(rules) if at is None else at, made)
    return _shown_rules(await client.set_group_rules(org_id, rules=rules), {})


async def remove_rule(
    client: "BillingCalls",
    name: Annotated[str, typer.Argument(metavar="GROUP", help="The group.")],
    org: Org = None,
) -> Shown:
    """Have a group give nothing any more."""
    org_id = await organization_id(client, org)
    rules = [_sent(each) for each in (await client.group_rules(org_id)).rules]
    kept = [each for each in rules if each.group.casefold() != name.casefold()]
    if len(kept) == len(rules):
        raise CommandFailed(f"There is no rule for {name!r}: metergate org scim rules")
    return _shown_rules(await client.set_group_rules(org_id, rules=kept), {})


def _sent(rule: "RuleShape") -> RuleBody:
    return RuleBody(group=rule.group, role=rule.role, max_keys=rule.max_keys, quotas=rule.quotas)


def add_operator_orgs(app: typer.Typer, connect: Connect) -> None:
    """Add the group `org` of operators."""
    org = group("Organizations: which domains of addresses are their own.")
    add_calls(org, connect, domains=domains)
    app.add_typer(org, name="org")


async def domains(
    client: "BillingCalls",
    organization: Annotated[str, typer.Argument(metavar="ORG_ID", help="The organization, org_...")],
    domain: Annotated[
        list[str] | None, typer.Argument(metavar="[DOMAIN]...", help="Domains to add. Make sure that they are theirs.")
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="DOMAIN", help="A domain to remove; may be given several times."),
    ] = None,
) -> Shown:
    """Show the domains of an organization's directory, add and remove some."""
    found = await client.organization_domains(organization)
    wanted = [each for each in found.domains if each not in (remove or ())]
    wanted += [each.lower() for each in domain or () if each.lower() not in wanted]
    if wanted != found.domains:
        found = await client.set_organization_domains(organization, domains=wanted)
    return _shown_domains(found)


def _shown_domains(found: "DomainsShape") -> Shown:
    return details(found, [("domains", ", ".join(found.domains) or "none")])
