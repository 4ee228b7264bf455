"""Errors: the root of all exceptions that Metergate raises, and the tree of them, each with its module.

An exception means that something failed. A decision, such as a refused hold, is a value.

MetergateError
+-- StoreError                     billing.errors
|   +-- DatabaseError              billing.database.connection
|   |   +-- DatabaseRefused        billing.database.connection
|   |   |   +-- MissingPartition   billing.database.connection
|   |   |   +-- UniqueViolation    billing.database.connection
|   |   +-- DatabaseUnavailable    billing.database.connection
|   |   |   +-- DatabaseHindered   billing.database.connection
|   |   |       +-- DatabaseLocked billing.database.connection
|   |   +-- MigrationError         billing.database.migrate
|   +-- NotReady                   billing.holds.epochs
|   +-- RedisError                 billing.holds.redis.connection
|       +-- StaleEpoch             billing.holds.batch
|       +-- RedisAway              billing.holds.redis.connection
|       |   +-- RedisStrange       billing.holds.redis.connection
|       +-- RedisRefused           billing.holds.redis.connection
|       |   +-- RedisMoved         billing.holds.redis.connection
|       |   +-- RedisUnfit         billing.holds.redis.connection
|       +-- RedisTimeout           billing.holds.redis.connection
+-- BadUserId                      billing.accounts.accounts
+-- GrantError                     billing.accounts.grants
|   +-- BalanceOutOfBounds         billing.accounts.grants
|   +-- IdempotencyConflict        billing.accounts.grants
+-- LotNotFound                    billing.accounts.grants
+-- PriceNotFound                  billing.accounts.repricing
+-- TooManyAttempts                billing.api.attempts
+-- ApiError                       billing.api.requests
|   +-- Conflict                   billing.api.requests
|   +-- InsufficientScope          billing.api.requests
|   +-- NotFound                   billing.api.requests
|   +-- QuotaExceeded              billing.api.requests
|   +-- TooLarge                   billing.api.requests
|   +-- TooMany                    billing.api.requests
|   +-- Unauthorized               billing.api.requests
|   +-- Unavailable                billing.api.requests
|   +-- Unpriced                   billing.api.requests
+-- BudgetError                    billing.budgets
|   +-- BudgetNotFound             billing.budgets
|   +-- BudgetRefused              billing.budgets
+-- CommandFailed                  billing.cli.output
|   +-- NoData                     gateway.commands.stores
+-- ClientError                    billing.client.errors
|   +-- BadAnswer                  billing.client.errors
|   +-- Refused                    billing.client.errors
|   +-- Unreachable                billing.client.errors
+-- BadCoding                      billing.codings
+-- ExporterFailed                 billing.collect.snapshots
+-- SubjectNotFound                billing.collect.subjects
+-- AccountError                   billing.errors
|   +-- UnknownPlan                billing.accounts.accounts
|   +-- AccountNotFound            billing.errors
+-- Unreadable                     billing.errors
|   +-- NewerLayout                billing.errors
+-- SinkFailed                     billing.exports.sinks
+-- ExportNotFound                 billing.exports.worker
+-- LostWrites                     billing.holds.epochs
+-- IllegalTransition              billing.holds.model
+-- NeedTooLarge                   billing.holds.model
+-- SettlementLost                 billing.holds.model
+-- AccountsLocked                 billing.holds.outbox
+-- LeftToOthers                   billing.holds.outbox
+-- TooManyMails                   billing.identity.codes
+-- TooManyTries                   billing.identity.codes
+-- CredentialsError               billing.identity.credentials
|   +-- CredentialRefused          billing.identity.credentials
|   +-- WrongCredential            billing.identity.credentials
+-- DomainTaken                    billing.identity.directories
+-- SealBroken                     billing.identity.encryption
+-- IssuerAway                     billing.identity.issuers
|   +-- IssuerRefused              billing.identity.issuers
+-- MailFailed                     billing.identity.mailer
+-- OrganizationError              billing.identity.organizations
|   +-- OrganizationConflict       billing.identity.organizations
|   +-- OrganizationForbidden      billing.identity.organizations
|   +-- OrganizationNotFound       billing.identity.organizations
|   +-- OrganizationRefused        billing.identity.organizations
+-- PasswordRefused                billing.identity.passwords
+-- TooManySignIns                 billing.identity.passwords
+-- SignInFailed                   billing.identity.providers
+-- UnknownProvider                billing.identity.providers
+-- SignInRefused                  billing.identity.sessions
+-- BadToken                       billing.identity.tokens
+-- SubjectTaken                   billing.identity.users
+-- UserError                      billing.identity.users
|   +-- UserNotFound               billing.identity.users
|   +-- UserRefused                billing.identity.users
+-- DifferentKeys                  billing.keys.secrets
+-- UsageQueryError                billing.ledger.sums
+-- BadAddress                     billing.mail
+-- BadMeasure                     billing.metering.charges
+-- Busy                           billing.metering.charges
+-- EventConflict                  billing.metering.charges
+-- EventRefused                   billing.metering.charges
+-- MeterNotPriced                 billing.metering.charges
+-- NotAdmitted                    billing.metering.charges
+-- UnknownAccount                 billing.metering.charges
+-- UnknownHold                    billing.metering.metering
+-- MoneyError                     billing.money
+-- DestinationRefused             billing.notices.delivery
+-- WebhookError                   billing.notices.endpoints
|   +-- EndpointNotFound           billing.notices.endpoints
|   +-- EndpointRefused            billing.notices.endpoints
+-- BadCursor                      billing.pages
+-- RechargeRefused                billing.payments.auto_recharge
+-- CouponError                    billing.payments.coupons
|   +-- CouponNotFound             billing.payments.coupons
|   +-- CouponRefused              billing.payments.coupons
|   +-- CouponUsed                 billing.payments.coupons
+-- PaymentEventNotFound           billing.payments.events
+-- OrderError                     billing.payments.orders
|   +-- OrderConflict              billing.payments.orders
|   +-- OrderNotFound              billing.payments.orders
|   +-- OrderRefused               billing.payments.orders
+-- PaymentError                   billing.payments.port
|   +-- PaymentEventRefused        billing.payments.port
|   +-- PaymentProviderUnavailable billing.payments.port
|   |   +-- KeyReused              billing.payments.stripe.provider
|   +-- PaymentRefused             billing.payments.port
|       +-- CustomerGone           billing.payments.port
|       +-- AccessRefused          billing.payments.stripe.provider
+-- SubscriptionError              billing.payments.subscriptions
|   +-- NoSubscription             billing.payments.subscriptions
|   +-- SubscriptionRefused        billing.payments.subscriptions
+-- PriceError                     billing.pricing
+-- TrialRefused                   billing.pricing
|   +-- NoSuchPrice                billing.pricing
+-- NoSuchBill                     billing.provider_bills.bills
+-- BillError                      billing.provider_bills.lines
|   +-- BillRefused                billing.provider_bills.lines
|   +-- BillUnavailable            billing.provider_bills.lines
+-- QuotaError                     billing.quotas
+-- ApiKeyError                    billing.schemas.keys
|   +-- KeyConflict                billing.schemas.keys
|   +-- KeyNotFound                billing.schemas.keys
|   +-- KeyRefused                 billing.schemas.keys
|   +-- ScopeWithheld              billing.schemas.keys
+-- ScimError                      billing.scim.attributes
+-- TooManyCalls                   billing.scim.service
+-- TimeError                      billing.times
+-- UsageError                     billing.usage
+-- NotKept                        gateway.body_logs.redaction
+-- FileBroken                     gateway.body_logs.sealed_file
+-- BadKeyFile                     gateway.commands.data_folder
+-- WouldOverwrite                 gateway.commands.init
+-- NothingToUndo                  gateway.commands.tools.changes
+-- CannotEdit                     gateway.commands.tools.formats
+-- UnusualForm                    gateway.commands.tools.formats
+-- ConfigError                    gateway.config.source
+-- Unset                          gateway.config.source
+-- BadRequest                     gateway.dialects.body
+-- GarbageAnswer                  gateway.dialects.body
+-- EmbeddedServersError           gateway.embedded.folders
|   +-- AlreadyRunning             gateway.embedded.folders
|   +-- ServerFailed               gateway.embedded.folders
+-- MetricsAddressTaken            gateway.endpoints.metrics_access
+-- StoreFailed                    gateway.object_stores
|   +-- NoSuchBucket               gateway.object_stores
+-- NotPriced                      gateway.proxy.estimate
+-- UnknownAiohttp                 gateway.server.aiohttp_private
+-- TooManyBytes                   gateway.server.bodies
+-- BadBody                        gateway.server.exchange
+-- BodyTooLarge                   gateway.server.exchange
+-- ClientGone                     gateway.server.exchange
+-- AddressInUse                   gateway.server.listening
+-- Refuse                         gateway.server.refusals
+-- VocabularyError                gateway.tokens
+-- ExportFailed                   gateway.tracing.exporter
+-- UpstreamError                  gateway.upstream.base
|   +-- ToolOverrun                gateway.proxy.overrun
|   +-- WorksOn                    gateway.proxy.stored
|   +-- UpstreamBusy               gateway.upstream.base
|   |   +-- AccountBusy            gateway.upstream.base
|   +-- UpstreamCut                gateway.upstream.base
|   |   +-- _Closed                gateway.upstream.socket
|   +-- UpstreamTimeout            gateway.upstream.base
|   +-- UpstreamTooLarge           gateway.upstream.base
|   +-- UpstreamUnreachable        gateway.upstream.base
|       +-- StaleConnection        gateway.upstream.transport
+-- RequestError                   gateway.upstream.local.generator
"""

from typing import ClassVar, Final, Literal

# What OpenAI's 401 begins with, by which some clients tell a wrong key.
INCORRECT_KEY: Final = "Incorrect API key provided"
LISTED: Final = "GET /docs/reference lists the endpoints."

Kind = Literal["unauthorized", "forbidden", "not_found", "invalid", "conflict", "too_many", "unavailable", "not_priced"]


class MetergateError(Exception):
    """Something failed. The message never holds a secret.

    `kind` says how a request is refused that has caused it, with the message; None: with neither. `field` names what of
    the request is wrong, `retry_after_s` is how long to wait in whole seconds, `required_scope` what somebody lacks to
    whom it is forbidden.
    """

    kind: ClassVar[Kind | None] = None
    field: str | None = None
    retry_after_s: int | None = None
    required_scope: str | None = None

    def __init__(self, message: str = "", field: str | None = None) -> None:
        super().__init__(message)
        if field is not None:
            self.field = field


class StoreError(MetergateError):
    """Postgres or Redis did not do what was asked, or was not reached."""


class AccountError(MetergateError):
    """What was asked of an account can't be done. The message is fit for a reader."""


class AccountNotFound(AccountError):
    """No account has this id."""

    kind = "not_found"


class Unreadable(MetergateError, ValueError):
    """These bytes are not what they should be."""


class NewerLayout(Unreadable):
    """A newer release wrote this: it is for its gateways to read."""
