"""Usage on its way to other systems: the exports of the settings, each with its other side, in the background."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, assert_never, cast

from billing.exports.folder import Folder
from billing.exports.lago import DEFAULT_CODE, DEFAULT_PLAN, Lago, LagoMeter, LagoRules
from billing.exports.meters import MeterCustomers, StripeMeter, StripeMeters
from billing.exports.sinks import DEFAULT_TYPE, CloudEvents, CloudEventsRules, Peer
from billing.exports.worker import ExportRules, ExportWorker
from billing.notices.delivery import Poster
from billing.pages import new_id
from gateway.config.exports import ExportConfig, off_reason

if TYPE_CHECKING:
    from billing.exports.sinks import Sink
    from billing.exports.worker import Export
    from billing.payments.stripe.provider import StripePayments
    from gateway.config.secret import Secret
    from gateway.config.settings import Settings
    from gateway.metrics.registry import Metrics
    from gateway.runtime.runtime import Runtime

T = TypeVar("T")
_EXPORTS: Final = "exports"
# How long one request to another system may take.
EXPORT_TIMEOUT_S: Final = 30.0


def exports_of(settings: Settings) -> tuple[ExportConfig, ...]:
    """Return the exports that are on: those of the file, and Lago by LAGO_API_URL where the file has none."""
    found = settings.exports
    if settings.lago_api_url is not None and not any(each.kind == "lago" for each in found):
        found = (*found, ExportConfig(name="lago", kind="lago"))
    given = settings.payment_provider, settings.lago_api_url
    return tuple(each for each in found if off_reason(each, *given) is None)


def start_exports(runtime: Runtime, metrics: Metrics) -> ExportWorker | None:
    """Start telling usage to other systems, in the background; None where there are none."""
    wanted = exports_of(runtime.settings)
    if not wanted:
        return None
    begins = frozenset(each.name for each in wanted if each.from_beginning)
    rules = ExportRules(alarm_s=runtime.settings.defaults.process.export_alarm_s)
    sinks = [_sink(each, runtime) for each in wanted]
    worker = ExportWorker(runtime.database, sinks, new_id(), rules, from_beginning=begins)
    for name, export in worker.exports.items():
        for metric, told in (
            ("waiting", "Events that an export has not told yet, at most."),
            ("lag_seconds", "How long the oldest of them waits."),
            ("parked", "What the other side does not take, and waits for an operator."),
        ):
            field = metric.replace("lag_seconds", "lag_s")
            metrics.gauge(f"export_{metric}", told, partial(_standing, export, field), "max", export=name)
    runtime.engine.loops.start(_EXPORTS, worker.run)
    return worker


def _standing(export: Export, field: str) -> float:
    """Return a gauge's value for an export; nothing before the first look at it."""
    return float("nan") if export.standing is None else float(getattr(export.standing, field))


def _sink(export: ExportConfig, runtime: Runtime) -> Sink:
    """Make an export's other side."""
    match export.kind:
        case "folder":
            return Folder(export.name, _configured(export.path), export.format)
        case "cloudevents":
            source = export.source or f"metergate/{runtime.deployment}"
            told = CloudEventsRules(_configured(export.url), source, export.type or DEFAULT_TYPE, export.batch)
            return CloudEvents(export.name, told, _peer("the endpoint", export.key, private=export.private_addresses))
        case "stripe_meters":
            return _stripe_meters(export, runtime)
        case "lago":
            settings = runtime.settings
            codes = tuple(LagoMeter(each.code, each.value, each.feature) for each in export.meters)
            url = _configured(export.url or settings.lago_api_url)
            rules = LagoRules(url, export.plan_code or DEFAULT_PLAN, codes or (LagoMeter(DEFAULT_CODE),))
            peer = _peer("Lago", export.key or settings.lago_api_key, private=True)
            return Lago(export.name, rules, peer, runtime.database)
        case _:
            assert_never(export.kind)


def _stripe_meters(export: ExportConfig, runtime: Runtime) -> StripeMeters:
    payments = _configured(runtime.services.payments)
    meters = [StripeMeter(each.code, each.value or "requests", each.feature) for each in export.meters]
    customers, calls = payments.customers, cast("StripePayments", payments.provider).calls

    async def customer(account_id: str) -> str:
        return await customers.ensure(account_id, (await runtime.accounts.get(account_id)).name)

    return StripeMeters(
        export.name,
        meters,
        calls,
        MeterCustomers(customer, customers.gone),
        database=runtime.database,
        new_id=new_id,
        now=lambda: datetime.now(UTC),
    )


def _configured(value: T | None) -> T:
    """Return what the settings have where an export of its kind is on: see `exports_of`."""
    assert value is not None  # noqa: S101
    return value


def _peer(name: str, key: Secret | None, *, private: bool) -> Peer:
    headers = {"User-Agent": "metergate-exports/1", "Accept": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key.reveal()}"
    return Peer(name, Poster(private=private, timeout_s=EXPORT_TIMEOUT_S), headers)
