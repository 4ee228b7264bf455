"""plans.yaml into `Plan`s, which content of it is in force, and keeping a gateway on it.

The plans' own rules are `billing.plans`'; this file owns how the file says them. Every content of plans.yaml that the
ledger has not seen is a new revision, and the newest is in force for all gateways: one that was started with an older
file, before a rollout has reached it or again in the middle of it, follows.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, Literal

from billing.database.connection import Database, DatabaseError
from billing.database.migrate import pending
from billing.ledger.catalogue import Revision, newest_revision, plans_in_force, revision_of, sync_plans
from billing.money import MoneyError, parse_usd
from billing.plans import LivePlans, Plan
from billing.prices import parse_factor
from billing.quotas import Quota, QuotaError, check_quotas, parse_quota
from gateway.config.problems import NO_EFFECT, nearest
from gateway.config.source import Value

if TYPE_CHECKING:
    from gateway.config.settings import Settings

EVERY_MODEL: Final = "*"
MAX_USERS: Final = 1_000_000
MAX_PARALLEL: Final = 1_000_000
MAX_QUEUE_S: Final = 600
_PLAN_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_QUOTA_KEYS: Final = ("window", "metric", "limit", "model", "feature")
PLANS_FILE: Final = "plans.yaml"
MAX_VERSION: Final = 1_000_000_000
VERSION: Final = "version"
_PLAN_KEYS: Final = (
    "name",
    "price_usd",
    "quotas",
    "included_credit_usd",
    "models",
    "users",
    "max_parallel_requests",
    "admission_queue_s",
    "markup_percent",
    "stripe_price",
    "upgrade_to",
)
NOT_SERVED: Final = {"included_credit_usd": "included_credit_nano", "users": "users", "stripe_price": "stripe_price"}
"""Keys, and their fields of `Plan`, that this version does not act on."""


def read_plans(at: Value, models: Collection[str]) -> dict[str, Plan]:
    """Return the plans by id; a wrong one is a problem and left out. `models` are the names of metergate.yaml's
    entries."""
    entries = {name: value for name, value in at.entries().items() if name != VERSION or value.is_mapping}
    plans = {}
    for plan_id, value in entries.items():
        if not _PLAN_ID.fullmatch(plan_id):
            value.problem("a plan's id is lower-case letters, digits, '_' and '-'")
        plan = _read_plan(plan_id, value, entries, models)
        if plan is not None:
            plans[plan_id] = plan
    idle = [key for key, field in NOT_SERVED.items() if any(getattr(plan, field) for plan in plans.values())]
    if idle:
        at.file.problems.note(at.file.shown, ", ".join(idle), NO_EFFECT)
    return plans


def read_plans_version(at: Value) -> int:
    """Return the file's own version: `version: 7` beside the plans; 0 where it says none, a problem where it is no
    number."""
    said = at.entries().get(VERSION) if VERSION in at.child_names else None
    return 0 if said is None or said.is_mapping else said.whole(0, MAX_VERSION) or 0


def _read_plan(plan_id: str, value: Value, plans: Collection[str], models: Collection[str]) -> Plan | None:
    section = value.section(_PLAN_KEYS, ("name", "price_usd"))
    upgrade_to = section.maybe("upgrade_to", Value.text)
    if upgrade_to is not None and (upgrade_to not in plans or upgrade_to == plan_id):
        section.values["upgrade_to"].expected("another plan of this file", nearest(upgrade_to, plans))
    name = section.read("name", Value.text, "")
    price_nano = section.read("price_usd", _usd, 0)
    quotas = section.maybe("quotas", _quotas) or ()
    allowed = section.maybe("models", lambda said: _models(said, models))
    parallel = section.maybe("max_parallel_requests", lambda said: said.whole(1, MAX_PARALLEL))
    queue_s = section.read("admission_queue_s", lambda said: said.whole(0, MAX_QUEUE_S), 0)
    credit_nano = section.read("included_credit_usd", _usd, 0)
    users = section.maybe("users", lambda said: said.whole(1, MAX_USERS))
    markup = section.read("markup_percent", lambda said: said.decimal(parse_factor, "20"), 0)
    stripe_price = section.maybe("stripe_price", Value.text)
    if not section.ok:
        return None
    return Plan(
        id=plan_id,
        name=name,
        price_nano=price_nano,
        quotas=quotas,
        models=allowed,
        max_parallel_requests=parallel,
        included_credit_nano=credit_nano,
        users=users,
        markup_scaled=markup,
        stripe_price=stripe_price,
        upgrade_to=upgrade_to,
        admission_queue_s=queue_s,
    )


def _usd(value: Value) -> int | None:
    return value.decimal(parse_price, "99")


def parse_price(said: object) -> int:
    """Return nano-USD of a decimal string of USD that is not below zero. Raises `MoneyError`."""
    nano = parse_usd(said)
    if nano < 0:
        raise MoneyError("an amount that is not below zero")
    return nano


def _models(value: Value, known: Collection[str]) -> tuple[str, ...] | None:
    """Return names of entries, `prefix*`, or `provider/model`; None, which allows every model, for or with `*`."""
    if value.is_string and value.text() == EVERY_MODEL:
        return None
    names = value.names("a model's name")
    for name in names:
        if name not in known and not name.endswith("*") and "/" not in name:
            value.problem(f"{name} is no entry of metergate.yaml's models{nearest(name, known)}")
    return None if EVERY_MODEL in names else names


def _quotas(value: Value) -> tuple[Quota, ...]:
    quotas = []
    for item in value.items():
        section = item.section(_QUOTA_KEYS, ("window", "metric", "limit"))
        said = {name: field.plain() for name, field in section.values.items()}
        if not section.ok:
            continue
        try:
            quotas.append(parse_quota(said))
        except QuotaError as error:
            item.problem(str(error))
    try:
        return check_quotas(quotas)
    except QuotaError as error:
        value.problem(str(error))
        return ()


logger = logging.getLogger(__name__)

FOLLOW_EVERY_S: Final = 0.5
"""A change is felt within a second: by then every gateway has the new plans and has read its principals anew."""


class PlanFollower:
    """The plans that this process applies: its file's until it has asked the ledger, then those in force.

    With `take_over` its file is put in force whatever was before: for an installation that has no other. `changed` is
    called when other plans have taken their place.
    """

    def __init__(self, database: Database, settings: Settings, *, take_over: bool) -> None:
        self._database = database
        self._settings = settings
        self._take_over = take_over
        self.plans = LivePlans(settings.plans)
        self.revision = 0
        self.changed: Callable[[], None] = lambda: None

    async def begin(self) -> None:
        """Tell the ledger this gateway's file, and take on what is in force. Raises `DatabaseError`."""
        settings = self._settings
        synced = await sync_plans(
            self._database,
            settings.plans,
            settings.defaults.default_plan,
            version=settings.plans_version,
            take_over=self._take_over,
        )
        self._take(synced.in_force)
        if synced.follows:
            logger.warning("%s", follows_another(synced.file_revision, synced.in_force))
        else:
            logger.info("%s is revision %d of the plans, and in force", PLANS_FILE, self.revision)

    async def follow(self, revision: int | None) -> None:
        """Take on what is in force, where that has a higher revision than what is applied here.

        Raises `DatabaseError`. Whoever reads a principal calls this before applying a plan to it: a request that is
        admitted at the version of newer plans counts in the windows of those plans.
        """
        if revision is None or revision <= self.revision:
            return
        try:
            in_force = await plans_in_force(self._database)
        except ValueError as error:  # a newer release's: what is known here goes on
            logger.error("revision %d of the plans can't be read by this version: %s", revision, error)
            self.revision = revision
            return
        if in_force is not None:
            self._take(in_force)
            logger.info("revision %d of the plans is in force, of another file than this one", self.revision)

    async def run(self) -> None:
        """Take on newer plans as they come, for ever."""
        while True:
            await asyncio.sleep(FOLLOW_EVERY_S)
            try:
                await self.follow(await newest_revision(self._database))
            except DatabaseError as error:
                logger.info("plans: %s", error)

    def _take(self, in_force: Revision) -> None:
        self.revision = in_force.revision
        default = self._settings.defaults.default_plan
        if default not in in_force.plans:  # new accounts, and those whose plan is gone, would have none
            logger.error("the plans in force have no plan %s: those of %s apply", default, PLANS_FILE)
            return
        if dict(self.plans) != dict(in_force.plans):
            self.plans.replace(in_force.plans)
            self.changed()


async def plans_finding(database: Database, settings: Settings) -> list[tuple[Literal["ok", "warn", "fail"], str, str]]:
    """Return what `doctor` says of the plans: at most one finding, as status, message and how to mend it. Raises
    `DatabaseError`."""
    if await pending(database):
        return []
    try:
        in_force = await plans_in_force(database)
    except ValueError as error:
        return [("warn", f"those in force can't be read by this version: {error}", "Run the newer version.")]
    if in_force is None:
        return []
    own = await revision_of(database, settings.plans, settings.plans_version)
    if own == in_force.revision:
        return [("ok", f"revision {own} is in force, and it is this {PLANS_FILE}", "")]
    said = f"revision {in_force.revision} is in force, this {PLANS_FILE} is {own or 'not known'}"
    mend = f"Gateways take it on as they start; if they do not, write `version: {in_force.version + 1}` at its top."
    return [("warn", said, mend)]


def follows_another(file_revision: int | None, in_force: Revision) -> str:
    """Say to an operator that another file than this one is in force, and how this one could be."""
    own = "older than any" if file_revision is None else f"revision {file_revision}"
    return (
        f"{PLANS_FILE} here is {own}; revision {in_force.revision} of the plans is in force, and this gateway follows "
        f"it. To have this file in force, write `version: {in_force.version + 1}` at its top"
    )
