"""Who signs in and whose organizations are, made on one database from the settings: people, sessions, members."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from billing.accounts.grants import Grants
from billing.identity.browsers import BrowserRules, Browsers
from billing.identity.codes import Codes
from billing.identity.credentials import Credentials, People
from billing.identity.directories import Directories
from billing.identity.issuers import Discovery, ForeignRules, ForeignTokens, KeySet
from billing.identity.oidc import OidcSignIn
from billing.identity.organizations import Invitations, Members, Organizations, found, most_users
from billing.identity.passwords import Passwords
from billing.identity.providers import CONSOLE
from billing.identity.sessions import Sessions
from billing.identity.sign_in import SignIn
from billing.identity.tokens import SigningKeys, TokenRules
from billing.identity.users import Found, Subjects, Users
from billing.identity.welcome import Welcome
from billing.money import parse_usd
from billing.pages import new_id
from billing.scim.directory import Directory
from billing.scim.service import PREFIX, Scim, ScimLimit
from billing.scim.tokens import ScimTokens
from gateway.config.secret import revealed
from gateway.config.settings import public_url
from gateway.runtime.encryption import sealer_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from billing.audit import Actor
    from billing.change_notifier import ChangeNotifier
    from billing.database.connection import Connection, Database
    from billing.identity.organizations import Organization
    from billing.identity.providers import SignInProvider
    from billing.plans import Plans
    from gateway.config.settings import Settings
    from gateway.runtime.outgoing import Outgoing

DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that works on people and their organizations. `oidc` is None where no other provider signs people
    in."""

    people: People
    sign_in: SignIn
    credentials: Credentials
    sessions: Sessions
    browsers: Browsers
    oidc: OidcSignIn | None
    organizations: Organizations
    members: Members
    invitations: Invitations
    scim: Scim


def make_identity(
    settings: Settings,
    database: Database,
    of_keys: Database,
    ask: Outgoing,
    plans: Plans,
    effects: ChangeNotifier,
) -> Identity:
    """Return what works on people; signing keys are read over `of_keys`, other issuers are asked over `ask`."""
    defaults, frontend_url = settings.defaults, settings.frontend_url
    plan = defaults.accounts.default_plan
    founder = _founder(plan) if defaults.organizations.personal_organizations else _nothing
    welcome = Welcome(Grants(database, effects, new_id), parse_usd(defaults.organizations.welcome_credit_usd))
    users = Users(database, new_id, settings.identity.approval, welcome)
    subjects = Subjects(database, users, founder)
    sealer = sealer_of(settings)
    keys = SigningKeys(of_keys, token_rules(settings), new_id, time.monotonic, sealer)
    admits = partial(_admits, settings.identity.providers)
    foreign = _foreign_tokens(settings, ask)
    sessions = Sessions(database, keys, new_id, foreign=foreign, subjects=subjects, admits=admits)
    people = People(
        database,
        users,
        Codes(database, new_id, defaults.codes),
        Passwords(at_once=defaults.sign_in.passwords_at_once),
        sessions,
        effects,
        new_id,
        time.time,
        sealer,
    )
    members = Members(database, effects, defaults.organizations.organizations_per_user)
    directories = Directories(database, members, effects, partial(most_users, plans, plan))
    limit = ScimLimit(defaults.scim, time.monotonic)
    return Identity(
        people=people,
        sign_in=SignIn(people, founder, directories),
        credentials=Credentials(people),
        sessions=sessions,
        browsers=Browsers(database, new_id, revealed(settings.admin_api_key), browser_rules(settings), admits),
        oidc=_oidc_sign_in(settings, ask, sessions, subjects, directories),
        organizations=Organizations(database, new_id, plan, defaults.organizations, welcome),
        members=members,
        invitations=Invitations(
            database,
            new_id,
            plans,
            plan,
            defaults.organizations,
            frontend_url=frontend_url or f"{public_url(settings)}{CONSOLE}",
        ),
        scim=Scim(
            directories,
            Directory(database, directories, new_id, defaults.scim, limit.spend),
            ScimTokens(database, new_id, defaults.scim.scim_tokens),
            limit,
            f"{public_url(settings)}{PREFIX}",
        ),
    )


def token_rules(settings: Settings) -> TokenRules:
    """Return how tokens of people are signed and how long they live, from the configuration."""
    defaults = settings.defaults
    return TokenRules(
        access_s=settings.jwt_expiry_hours * 3600,
        refresh_s=settings.refresh_token_expiry_days * DAY_S,
        grace_s=defaults.sign_in.refresh_grace_s,
        rotation_s=defaults.sign_in.signing_key_days * DAY_S,
        secret=revealed(settings.jwt_secret),
        sessions=defaults.sign_in.sessions_per_user,
    )


def browser_rules(settings: Settings) -> BrowserRules:
    """Return where browsers reach the console, and whether over TLS alone: as `public_url` says, else FRONTEND_URL."""
    told = settings.identity.public_url or settings.frontend_url or ""
    return BrowserRules(public_url(settings), secure=told.startswith("https://"))


def _oidc_sign_in(
    settings: Settings, ask: Outgoing, sessions: Sessions, subjects: Subjects, directories: Directories
) -> OidcSignIn | None:
    """Return what signs people in elsewhere; None where no provider is configured."""
    identity = settings.identity
    if identity.public_url is None or not identity.providers:
        return None
    return OidcSignIn(
        identity.providers,
        identity.public_url,
        settings.frontend_url,
        discovery=Discovery(ask, time.monotonic),
        sessions=sessions,
        subjects=subjects,
        directories=directories,
    )


def _foreign_tokens(settings: Settings, ask: Outgoing) -> ForeignTokens | None:
    """Return what verifies tokens of other issuers; None where none is configured."""
    secret = settings.auth_cookie_secret
    if settings.auth_audience is None or (settings.auth_base_url is None and secret is None):
        return None
    rules = ForeignRules(
        settings.auth_audience,
        settings.auth_internal_audience,
        settings.auth_base_url,
        revealed(secret),
    )
    url = settings.auth_base_url
    keys = None if url is None else KeySet(f"{url}/.well-known/jwks.json", ask, time.monotonic)
    return ForeignTokens(rules, keys, time.time)


def _admits(providers: Mapping[str, SignInProvider], name: str, domain: str | None) -> bool:
    """Return whether a provider lets in who has an address of this domain; one that is off now has let them in."""
    return name not in providers or providers[name].admits(domain)


async def _nothing(connection: Connection, user_id: str, name: str, actor: Actor) -> None:
    """Make no organization for who registers: they found one, or are invited to one."""


def _founder(plan: str) -> Found:
    """Return what makes the personal organization of who registers, on a plan."""

    async def make(connection: Connection, user_id: str, name: str, actor: Actor) -> Organization:
        return await found(connection, new_id, plan, user_id=user_id, name=name, personal=True, actor=actor)

    return make
