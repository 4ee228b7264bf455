"""The `body_logs` of metergate.yaml: which bodies are written where, by which rules, and for how long."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Struct

from billing.money import MILLION, parse_share
from billing.settings import MIB, about, within
from gateway.config.secret import MAKE_A_KEY, SIGNING_BYTES, Secret
from gateway.config.source import read_by, read_section, text

if TYPE_CHECKING:
    from gateway.config.source import Value

PRESETS: Final = ("mail_addresses", "card_numbers", "keys")
ALL: Final = "all"
MOST_IDS: Final = 10_000
MOST_RULES: Final = 100
MOST_KEYS: Final = 10
_ACCOUNT: Final = r"acc_[A-Za-z0-9_-]{1,96}"
_ACCOUNT_OR_KEY: Final = r"(acc|key)_[A-Za-z0-9_-]{1,96}"
_PATH: Final = re.compile(r"[^.\s]{1,100}(\.[^.\s]{1,100}){0,19}")
# What is quoted in a pattern, a quote without an end, or another escaped character.
_QUOTED: Final = re.compile(r"\\Q.*?\\E|\\Q|\\.", re.DOTALL)
_NO_LIBRARY: Final = "bodies are redacted by the library google-re2: install metergate[body-logs]"


class Redact(Struct, frozen=True):
    """What is taken out of bodies: what presets know, what patterns (of RE2) find, and fields by their name alone or by
    their path, in which `*` is any one name. Keys are always taken out."""

    presets: tuple[str, ...] = PRESETS
    patterns: tuple[str, ...] = ()
    fields: tuple[tuple[str, ...], ...] = ()


def compile_pattern(pattern: str) -> Any:
    """Return a pattern of RE2. Raises `ValueError` for a text that is none, `ImportError` without the library."""
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        told = error.args[0] if error.args else b""
        raise ValueError(told.decode(errors="replace") if isinstance(told, bytes) else str(told)) from error


def _read_secret(value: Value) -> Secret | None:
    found = value.text("a text, such as ${NAME}")
    if found is None:
        return None
    if len(found.encode()) < SIGNING_BYTES:
        value.expected(f"at least {SIGNING_BYTES} bytes; {MAKE_A_KEY} makes some", secret=True)
        return None
    return Secret(found)


def _read_secrets(value: Value) -> tuple[Secret, ...]:
    items = value.items()
    if len(items) > MOST_KEYS:
        value.problem(f"at most {MOST_KEYS} keys")
    return tuple(found for each in items if (found := _read_secret(each)) is not None)


def _read_accounts(value: Value) -> frozenset[str] | None:
    """Return ids of accounts; none for all of them."""
    if value.is_string:
        if value.choice((ALL,)) is None:
            return None
        return frozenset()
    found = _ids(value, "an account's id such as acc_01J8...", _ACCOUNT)
    if not found:
        value.problem(f'expected "{ALL}", or a list of accounts')
    return found


def _read_except(value: Value) -> frozenset[str]:
    return _ids(value, "the id of an account or of a key", _ACCOUNT_OR_KEY)


def _ids(value: Value, what: str, pattern: str) -> frozenset[str]:
    found = value.names(what, rf"^(?:{pattern})\Z")
    if len(found) > MOST_IDS:
        value.problem(f"at most {MOST_IDS} ids")
    return frozenset(found)


def _read_share(value: Value) -> int | None:
    return value.decimal(lambda written: parse_share(str(written)), "0.01")


class _Rule(Struct, frozen=True):
    pattern: Annotated[str, text("a pattern")] | None = None
    field: Annotated[str, text("a field such as password or metadata.user_id")] | None = None


def _read_redact(value: Value) -> Redact:
    presets, patterns, fields = list[str](), list[str](), list[tuple[str, ...]]()
    items = value.items()
    if len(items) > MOST_RULES:
        value.problem(f"at most {MOST_RULES} rules")
    for item in items:
        if item.is_string:
            name = item.choice(PRESETS)
            presets += [] if name is None else [name]
            continue
        rule = read_section(item, _Rule)
        if rule is None:
            continue
        if (rule.pattern is None) == (rule.field is None):
            item.problem(f"expected one of {', '.join(PRESETS)}, or a mapping with `pattern` or with `field`")
        elif rule.pattern is not None:
            _check(item, rule.pattern)
            patterns.append(rule.pattern)
        elif rule.field is not None and _PATH.fullmatch(rule.field):
            fields.append(tuple(rule.field.split(".")))
        else:
            item.expected("a field such as password or metadata.user_id")
    return Redact(tuple(presets), tuple(patterns), tuple(fields))


def _check(item: Value, pattern: str) -> None:
    if any(found[0] == r"\Q" for found in _QUOTED.finditer(pattern)):
        item.problem(r"the pattern has a \Q without its \E, which would quote the rules after it")
        return
    try:
        if compile_pattern(pattern).search("") is not None:
            item.problem("the pattern is found in every text")
    except ValueError as error:
        item.problem(f"not a pattern of RE2: {error}")
    except ImportError:
        item.problem(_NO_LIBRARY)


def _read_to(value: Value) -> str | None:
    found = value.text("a folder, or s3://BUCKET/PREFIX")
    if found is not None and not (found.startswith("/") or re.match(r"s3://[a-z0-9]", found)):
        value.expected("a folder such as /var/log/metergate/bodies, or s3://BUCKET/PREFIX")
        return None
    return found


class BodyLogConfig(Struct, frozen=True, kw_only=True):
    """Where bodies are written, whose, which share of them, and how long they are kept. No `accounts` are all of them;
    shares are millionths."""

    to: Annotated[str, read_by(_read_to), about("a folder, or `s3://BUCKET/PREFIX`")]
    encryption_key: Annotated[Secret, read_by(_read_secret), about("what files are encrypted with")]
    encryption_keys_before: Annotated[
        tuple[Secret, ...], read_by(_read_secrets), about("keys of older files, to read them")
    ] = ()
    accounts: Annotated[frozenset[str], read_by(_read_accounts), about("`all`, or a list of accounts")]
    excepted: Annotated[
        frozenset[str], read_by(_read_except), about("accounts and keys whose bodies are never written")
    ] = msgspec.field(default=frozenset(), name="except")
    sample: Annotated[int, read_by(_read_share), about("the share of requests whose bodies are written")] = MILLION
    client_opt_out: Annotated[bool, about("`X-Metergate-Body-Log: off` keeps a request's bodies out")] = True
    redact: Annotated[Redact, read_by(_read_redact), about("what is taken out")] = Redact()
    keep_days: Annotated[int, within(1, 3650, "days that a file is kept")] = 30
    max_body_bytes: Annotated[
        int, within(1024, 64 * MIB, "a larger request is not written, of a larger answer nothing beyond")
    ] = 4 * MIB
    max_field_bytes: Annotated[int, within(64, 64 * MIB, "characters of one text that are written")] = 65_536
    write_every_s: Annotated[float, within(0.05, 3600, "time between files of an account")] = 10.0
    waiting_bytes: Annotated[
        int, within(MIB, 8192 * MIB, "bodies of running requests and such as wait to be written, in one process")
    ] = 32 * MIB
    waiting_requests: Annotated[int, within(1, 1_000_000, "and how many requests these are at most")] = 1000
    account_share: Annotated[int, read_by(_read_share), about("of both, what one account may have")] = MILLION // 2
    folder_free_bytes: Annotated[int, within(0, 1 << 50, "of a folder's disk, what is left to others")] = 1024 * MIB

    def covers(self, account_id: str) -> bool:
        """Return whether bodies of an account are written."""
        return account_id not in self.excepted and (not self.accounts or account_id in self.accounts)


def read_body_logs(at: Value | None) -> BodyLogConfig | None:
    """Return the section; None where bodies are not logged."""
    found = None if at is None else read_section(at, BodyLogConfig)
    if at is not None and found is not None:
        try:
            compile_pattern("x")
        except ImportError:
            at.problem(_NO_LIBRARY)
    return found
