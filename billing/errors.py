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
|   +-- NotReady                   billing.holds.redis_errors
|   |   +-- AccountHeldBack        billing.holds.loader
|   +-- RedisError                 billing.holds.redis_errors
|       +-- StaleEpoch             billing.holds.redis.batcher
|       +-- RedisAway              billing.holds.redis_errors
|       |   +-- RedisStrange       billing.holds.redis_errors
|       +-- RedisRefused           billing.holds.redis_errors
|       |   +-- RedisMoved         billing.holds.redis_errors
|       |   +-- RedisUnfit         billing.holds.redis_errors
|       +-- RedisTimeout           billing.holds.redis_errors
+-- AccountError                   billing.accounts.accounts
|   +-- AccountNotFound            billing.accounts.accounts
|   +-- UnknownPlan                billing.accounts.accounts
+-- GrantError                     billing.accounts.grants
|   +-- BalanceOutOfBounds         billing.accounts.grants
|   +-- IdempotencyConflict        billing.accounts.grants
+-- ApiError                       billing.api.errors
|   +-- Conflict                   billing.api.errors
|   +-- InsufficientScope          billing.api.errors
|   +-- NotFound                   billing.api.errors
|   +-- TooLarge                   billing.api.errors
|   +-- TooMany                    billing.api.errors
|   +-- Unauthorized               billing.api.errors
|   +-- Unavailable                billing.api.errors
+-- TooManyAttempts                billing.attempts
+-- CommandFailed                  billing.cli.failures
+-- ClientError                    billing.client
|   +-- BadAnswer                  billing.client
|   +-- Refused                    billing.client
|   +-- Unreachable                billing.client
+-- BadCoding                      billing.codings
+-- NeedTooLarge                   billing.holds.decision
+-- SettlementLost                 billing.holds.hold
+-- LostWrites                     billing.holds.loader
+-- AccountsLocked                 billing.holds.replay
+-- LeftToOthers                   billing.holds.replay
+-- DifferentKeys                  billing.keys.presented
+-- ApiKeyError                    billing.keys.rows
|   +-- KeyNotFound                billing.keys.rows
|   +-- KeyRefused                 billing.keys.rows
+-- Unreadable                     billing.ledger.debits
|   +-- NewerLayout                billing.ledger.debits
+-- MoneyError                     billing.money
+-- BadCursor                      billing.pages
+-- PriceError                     billing.prices
+-- QuotaError                     billing.quotas
+-- TimeError                      billing.times
+-- UsageError                     billing.usage
+-- BadKeyFile                     gateway.commands.admin_key
+-- WouldOverwrite                 gateway.commands.init_folder
+-- ConfigError                    gateway.config.problems
+-- Unset                          gateway.config.references
+-- BadRequest                     gateway.dialects.base
+-- GarbageAnswer                  gateway.dialects.base
+-- EmbeddedServersError           gateway.embedded.errors
|   +-- AlreadyRunning             gateway.embedded.errors
|   +-- ServerFailed               gateway.embedded.errors
+-- MetricsAddressTaken            gateway.endpoints.metrics_access
+-- NotPriced                      gateway.proxy.estimate
+-- TooManyBytes                   gateway.server.bodies
+-- BadBody                        gateway.server.exchange
+-- BodyTooLarge                   gateway.server.exchange
+-- ClientGone                     gateway.server.exchange
+-- AddressInUse                   gateway.server.listening
+-- Refuse                         gateway.server.refusals
+-- VocabularyError                gateway.tokens
+-- UpstreamError                  gateway.upstream.base
|   +-- UpstreamBusy               gateway.upstream.base
|   |   +-- AccountBusy            gateway.upstream.base
|   +-- UpstreamCut                gateway.upstream.base
|   +-- UpstreamTimeout            gateway.upstream.base
|   +-- UpstreamTooLarge           gateway.upstream.base
|   +-- UpstreamUnreachable        gateway.upstream.base
|       +-- StaleConnection        gateway.upstream.connection
+-- RequestError                   gateway.upstream.local.request
"""


class MetergateError(Exception):
    """Something failed. The message never holds a secret."""


class StoreError(MetergateError):
    """Postgres or Redis did not do what was asked, or was not reached."""
