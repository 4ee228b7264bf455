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
+-- AccountError                   billing.accounts.accounts
|   +-- AccountNotFound            billing.accounts.accounts
|   +-- UnknownPlan                billing.accounts.accounts
+-- GrantError                     billing.accounts.grants
|   +-- BalanceOutOfBounds         billing.accounts.grants
|   +-- IdempotencyConflict        billing.accounts.grants
+-- LotNotFound                    billing.accounts.lots
+-- BadUserId                      billing.accounts.member_limits
+-- PriceNotFound                  billing.accounts.repricing
+-- TooManyAttempts                billing.api.attempts
+-- ApiError                       billing.api.errors
|   +-- Conflict                   billing.api.errors
|   +-- InsufficientScope          billing.api.errors
|   +-- NotFound                   billing.api.errors
|   +-- QuotaExceeded              billing.api.errors
|   +-- TooLarge                   billing.api.errors
|   +-- TooMany                    billing.api.errors
|   +-- Unauthorized               billing.api.errors
|   +-- Unavailable                billing.api.errors
|   +-- Unpriced                   billing.api.errors
+-- BudgetError                    billing.budgets.rules
|   +-- BudgetNotFound             billing.budgets.rules
|   +-- BudgetRefused              billing.budgets.rules
+-- CommandFailed                  billing.cli.output
|   +-- NoData                     gateway.commands.stores
+-- ClientError                    billing.client.errors
|   +-- BadAnswer                  billing.client.errors
|   +-- Refused                    billing.client.errors
|   +-- Unreachable                billing.client.errors
+-- BadCoding                      billing.codings
+-- ExporterFailed                 billing.collect.snapshots
+-- SubjectNotFound                billing.collect.subjects
+-- Unreadable                     billing.errors
|   +-- NewerLayout                billing.errors
+-- ExportNotFound                 billing.exports.cursor
+-- SinkFailed                     billing.exports.sinks
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
+-- IssuerAway                     billing.identity.issuers
|   +-- IssuerRefused              billing.identity.issuers
+-- MailFailed                     billing.identity.mailer
+-- OrganizationError              billing.identity.organizations
|   +-- OrganizationConflict       billing.identity.organizations
|   +-- OrganizationForbidden      billing.identity.organizations
|   +-- OrganizationNotFound       billing.identity.organizations
|   +-- OrganizationRefused        billing.identity.organizations
+-- PasswordRefused                billing.identity.passwords
+-- TooManyHashes                  billing.identity.passwords
+-- SignInFailed                   billing.identity.providers
+-- UnknownProvider                billing.identity.providers
+-- SealBroken                     billing.identity.sealing
+-- SignInRefused                  billing.identity.sessions
+-- SubjectTaken                   billing.identity.subjects
+-- BadToken                       billing.identity.tokens
+-- UserError                      billing.identity.users
|   +-- BadAddress                 billing.identity.users
|   +-- UserNotFound               billing.identity.users
|   +-- UserRefused                billing.identity.users
+-- TooManyVisits                  billing.identity.visits
+-- DifferentKeys                  billing.keys.presented
+-- UsageQueryError                billing.ledger.used
+-- BadMeasure                     billing.metering.charges
+-- MeterNotPriced                 billing.metering.charges
+-- Busy                           billing.metering.claims
+-- EventConflict                  billing.metering.claims
+-- EventRefused                   billing.metering.claims
+-- NotAdmitted                    billing.metering.claims
+-- UnknownAccount                 billing.metering.claims
+-- UnknownHold                    billing.metering.service_holds
+-- MoneyError                     billing.money
+-- DestinationRefused             billing.notices.destinations
+-- WebhookError                   billing.notices.endpoints
|   +-- EndpointNotFound           billing.notices.endpoints
|   +-- EndpointRefused            billing.notices.endpoints
+-- BadCursor                      billing.pages
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
|   |   +-- KeyReused              billing.payments.stripe.client
|   +-- PaymentRefused             billing.payments.port
|       +-- CustomerGone           billing.payments.port
|       +-- AccessRefused          billing.payments.stripe.client
+-- RechargeRefused                billing.payments.recharges
+-- SubscriptionError              billing.payments.subscriptions
|   +-- NoSubscription             billing.payments.subscriptions
|   +-- SubscriptionRefused        billing.payments.subscriptions
+-- PriceError                     billing.pricing.scales
+-- TrialRefused                   billing.pricing.trials
|   +-- NoSuchPrice                billing.pricing.trials
+-- NoSuchBill                     billing.provider_bills.bills
+-- BillError                      billing.provider_bills.lines
|   +-- BillRefused                billing.provider_bills.lines
|   +-- BillUnavailable            billing.provider_bills.lines
+-- QuotaError                     billing.quotas
+-- ApiKeyError                    billing.schemas.rules
|   +-- KeyConflict                billing.schemas.rules
|   +-- KeyNotFound                billing.schemas.rules
|   +-- KeyRefused                 billing.schemas.rules
|   +-- ScopeWithheld              billing.schemas.rules
+-- TimeError                      billing.times
+-- UsageError                     billing.usage
+-- BadKeyFile                     gateway.commands.first_start
+-- WouldOverwrite                 gateway.commands.init
+-- NothingToUndo                  gateway.commands.tools.backups
+-- CannotEdit                     gateway.commands.tools.formats
+-- UnusualForm                    gateway.commands.tools.formats
+-- ConfigError                    gateway.config.problems
+-- Unset                          gateway.config.problems
+-- BadRequest                     gateway.dialects.exceptions
+-- GarbageAnswer                  gateway.dialects.exceptions
+-- EmbeddedServersError           gateway.embedded.folders
|   +-- AlreadyRunning             gateway.embedded.folders
|   +-- ServerFailed               gateway.embedded.folders
+-- MetricsAddressTaken            gateway.endpoints.metrics_access
+-- NotPriced                      gateway.proxy.estimate
+-- UnknownAiohttp                 gateway.server.aiohttp_private
+-- TooManyBytes                   gateway.server.bodies
+-- BadBody                        gateway.server.exchange
+-- BodyTooLarge                   gateway.server.exchange
+-- ClientGone                     gateway.server.exchange
+-- AddressInUse                   gateway.server.listening
+-- Refuse                         gateway.server.refusals
+-- VocabularyError                gateway.tokens
+-- UpstreamError                  gateway.upstream.base
|   +-- ToolOverrun                gateway.proxy.overrun
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
LISTED: Final = "GET /docs lists the endpoints."

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


class StoreError(MetergateError):
    """Postgres or Redis did not do what was asked, or was not reached."""


class Unreadable(MetergateError, ValueError):
    """These bytes are not what they should be."""


class NewerLayout(Unreadable):
    """A newer release wrote this: it is for its gateways to read."""
