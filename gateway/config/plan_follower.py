"""Which content of plans.yaml is in force, and keeping a gateway on it.

Every content of plans.yaml that the ledger has not seen is a new revision, and the newest is in force for all gateways:
one that was started with an older file, before a rollout has reached it or again in the middle of it, follows.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal

from billing.database.migrate import pending
from billing.ledger.catalogue import Revision, plans_in_force, revision_of, sync_plans
from billing.plans import LivePlans
from billing.work import Periodic
from gateway.config.source import PLANS_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.database.connection import Database
    from billing.pending import Pending
    from gateway.config.settings import Settings

logger = logging.getLogger(__name__)

# Where newer plans could not be taken on at once, they are tried again.
FOLLOW_EVERY_S: Final = 0.5


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
            settings.defaults.accounts.default_plan,
            version=settings.plans_version,
            take_over=self._take_over,
        )
        self._take(synced.in_force)
        if synced.follows:
            logger.warning("%s", follows_another(synced.file_revision, synced.in_force))
        else:
            logger.debug("%s is revision %d of the plans, and in force", PLANS_FILE, self.revision)

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
            own = (in_force.version, in_force.plans) == (self._settings.plans_version, dict(self._settings.plans))
            whose = PLANS_FILE if own else f"another {PLANS_FILE} than this one"
            logger.info("revision %d of the plans is in force, from %s", self.revision, whose)

    def work(self, pending: Pending) -> Periodic:
        """Return what takes on newer plans as soon as they are found."""

        async def follow() -> None:
            await self.follow(pending.work.plans_revision)

        return Periodic(name="plans", every_s=FOLLOW_EVERY_S, round=follow, woken=pending.plans)

    def _take(self, in_force: Revision) -> None:
        self.revision = in_force.revision
        default = self._settings.defaults.accounts.default_plan
        if default not in in_force.plans:  # new accounts, and those whose plan was removed, would have none
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
    detail = f"revision {in_force.revision} is in force, this {PLANS_FILE} is {own or 'not known'}"
    mend = f"Gateways take it on as they start; if they do not, write `version: {in_force.version + 1}` at its top."
    return [("warn", detail, mend)]


def follows_another(file_revision: int | None, in_force: Revision) -> str:
    """Say to an operator that another file than this one is in force, and how this one could be."""
    own = "older than any" if file_revision is None else f"revision {file_revision}"
    return (
        f"{PLANS_FILE} here is {own}; revision {in_force.revision} of the plans is in force, and this gateway follows "
        f"it. To have this file in force, write `version: {in_force.version + 1}` at its top"
    )
