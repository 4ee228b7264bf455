"""Who is signed in on this machine: the tokens of the commands for people, in files of the user's own.

    ~/.config/metergate/auth/      (XDG_CONFIG_HOME honoured), mode 700, its files mode 600
        api-token                  the access token that commands send, alone: other programs may read it
        session.json               its gateway, when it ends, the refresh token, what it was narrowed to
        pending.json               for which address a code was mailed, and the challenge that goes with it
        lock                       held while a refresh token is used, which is good once

This file owns that a token goes to the gateway alone that gave it, that no refresh token is used twice or lost by a
command that ends in between, and that a token that was narrowed is never replaced by one that may do more.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec

from billing.cli.output import FILE_MODE, USAGE, CommandFailed, whole_file

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls
    from billing.schemas.people import TokenPairShape

FOLDER_MODE: Final = 0o700
LIMIT_BYTES: Final = 64 * 1024
# A token that ends sooner is renewed first.
MARGIN_S: Final = 60
_LOCK_EVERY_S: Final = 0.05
NOT_SIGNED_IN: Final = "You are not signed in: `metergate auth login`, or set METERGATE_API_TOKEN to an API key."

S = TypeVar("S", bound=msgspec.Struct)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in. `expires_at_s` is when the access token ends, in Unix seconds of this machine's clock; `scope` and
    `org_id` are what it was narrowed to, None: it was not."""

    url: str
    refresh_token: str
    expires_at_s: int
    scope: str | None = None
    org_id: str | None = None

    def __repr__(self) -> str:
        return f"Kept({self.url!r})"


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A code that was mailed, to be given to `auth verify`."""

    url: str
    email: str
    purpose: Literal["verify", "login"]
    challenge: str | None


def auth_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of the tokens. A relative XDG_CONFIG_HOME is ignored, as its specification has it
    (https://specifications.freedesktop.org/basedir-spec/latest/). Raises `CommandFailed` where there is no home."""
    given = Path(environ.get("XDG_CONFIG_HOME", ""))
    try:
        base = given if given.is_absolute() else Path.home() / ".config"
    except RuntimeError as error:
        raise CommandFailed("There is no home directory for tokens: set XDG_CONFIG_HOME.", USAGE) from error
    return base / "metergate" / "auth"


class TokenFiles:
    """The files of a folder, each replaced as a whole. Raises `CommandFailed` for what can't be read or written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def kept(self) -> Kept | None:
        """Return the sign-in, None where nobody is signed in."""
        return self._decoded("session.json", Kept)

    def token(self) -> str:
        """Return the access token. Raises `CommandFailed` where there is none."""
        read = self._read("api-token")
        if not read:
            raise CommandFailed(NOT_SIGNED_IN)
        return read.decode("ascii", "replace").strip()

    def keep(self, kept: Kept, token: str | None = None) -> None:
        """Write a sign-in, the refresh token first, which can't be had again; without `token` the one before stays."""
        self._write("session.json", msgspec.json.encode(kept))
        if token is not None:
            self._write("api-token", f"{token}\n".encode())

    def pending(self) -> Pending | None:
        """Return for what a code was mailed."""
        return self._decoded("pending.json", Pending)

    def keep_pending(self, pending: Pending | None) -> None:
        """Write for what a code was mailed; None: it was used."""
        if pending is None:
            (self.folder / "pending.json").unlink(missing_ok=True)
        else:
            self._write("pending.json", msgspec.json.encode(pending))

    def forget(self) -> None:
        """Remove the tokens."""
        for name in ("api-token", "session.json", "pending.json"):
            (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def locked(self, wait_s: float) -> Iterator[None]:
        """Keep other commands from changing the tokens. Raises `CommandFailed` where one does so for `wait_s`."""
        self._make_folder()
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        ends_s = time.monotonic() + wait_s
        try:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if time.monotonic() >= ends_s:
                    raise CommandFailed(f"Another command has been renewing the token for {wait_s:g} s: try again.")
                time.sleep(_LOCK_EVERY_S)
            yield
        finally:
            os.close(descriptor)

    def _decoded(self, name: str, kind: type[S]) -> S | None:
        read = self._read(name)
        try:
            return None if read is None else msgspec.json.decode(read, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"{self.folder / name} can't be read: remove it, and sign in again: `metergate auth login`."
            raise CommandFailed(message) from error

    def _read(self, name: str) -> bytes | None:
        path = self.folder / name
        try:
            with path.open("rb") as file:
                return file.read(LIMIT_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CommandFailed(f"Cannot read {path}: {error.strerror}.") from error

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self.folder.chmod(FOLDER_MODE)
        except OSError as error:
            message = f"Cannot keep tokens in {self.folder}: {error.strerror}. XDG_CONFIG_HOME names another folder."
            raise CommandFailed(message) from error

    def _write(self, name: str, content: bytes) -> None:
        self._make_folder()
        with whole_file(self.folder / name) as file:
            file.write(content)


@dataclass(frozen=True, slots=True)
class Session:
    """Whom a command for people works for, and at which gateway: `given_url` comes from an option or a variable,
    `own_url` finds the gateway of the data folder, `given_token` is that of --token-file or METERGATE_API_TOKEN; `open`
    makes a client of a URL and a token; `clock` gives Unix seconds; with `shows_tables` a person reads the results."""

    files: TokenFiles
    given_url: str | None
    own_url: Callable[[], str | None]
    given_token: str | None
    open: Callable[[str, str | None], "BillingCalls"]
    environ: Mapping[str, str]
    timeout_s: float
    clock: Callable[[], float] = time.time
    shows_tables: bool = False

    def open_anew(self) -> "BillingCalls":
        """Return a client to sign in with. Raises `CommandFailed` where no gateway is known."""
        return self.open(self._any_url(), None)

    async def open_signed_in(self) -> "BillingCalls":
        """Return a client with a token that is good for a while. Raises `CommandFailed` and what `renewed` raises."""
        if self.given_token is not None:
            return self.open(self._any_url(), self.given_token)
        kept = self.kept()
        if kept.expires_at_s - MARGIN_S > self.clock():
            return self.open(kept.url, self.files.token())
        return self.open(kept.url, await self._renewed_once())

    def kept(self) -> Kept:
        """Return the sign-in. Raises `CommandFailed` where there is none, or one at another gateway."""
        kept = self.files.kept()
        if kept is None:
            raise CommandFailed(NOT_SIGNED_IN)
        if self.given_url is not None and self.given_url.rstrip("/") != kept.url:
            here = self.given_url.rstrip("/")
            message = f"You are signed in at {kept.url}, not at {here}: `metergate auth login --api-url {here}`."
            raise CommandFailed(message)
        return kept

    def keep_signed_in(self, url: str, pair: "TokenPairShape") -> None:
        """Keep the tokens of a sign-in."""
        kept = Kept(url=url, refresh_token=pair.refresh_token, expires_at_s=int(self.clock()) + pair.expires_in)
        with self.files.locked(self.timeout_s):
            self.files.keep(kept, pair.access_token)
            self.files.keep_pending(None)

    async def renewed(self, scope: str | None, org_id: str | None, *, keep: bool = True) -> "tuple[Kept, str]":
        """Return a token of these scopes and this organization (None: all that the role allows; that of the sign-in),
        made by the refresh token. It is that of the commands from now on if it is to be kept.

        Raises `CommandFailed` and what the client raises.
        """
        with self.files.locked(self.timeout_s):
            return await self._renewed(scope, org_id, keep=keep)

    async def _renewed_once(self) -> str:
        with self.files.locked(self.timeout_s):
            kept = self.kept()
            if kept.expires_at_s - MARGIN_S > self.clock():  # another command was first
                return self.files.token()
            return (await self._renewed(kept.scope, kept.org_id))[1]

    async def _renewed(self, scope: str | None, org_id: str | None, *, keep: bool = True) -> "tuple[Kept, str]":
        kept, started_s = self.kept(), int(self.clock())
        pair = await self.open(kept.url, None).refresh(refresh_token=kept.refresh_token)
        narrowed = scope is not None or org_id is not None
        # The token before stays until the narrow one is there: never one that may do more.
        kept = msgspec.structs.replace(kept, refresh_token=pair.refresh_token)
        self.files.keep(kept)
        token, expires_in_s = pair.access_token, pair.expires_in
        if narrowed:
            narrow = await self.open(kept.url, token).narrow_token(scope=scope, org_id=org_id)
            token, expires_in_s = narrow.access_token, narrow.expires_in
        if keep:
            kept = msgspec.structs.replace(kept, scope=scope, org_id=org_id, expires_at_s=started_s + expires_in_s)
            self.files.keep(kept, token)
        return kept, token

    def _any_url(self) -> str:
        """Return which gateway to call: the one that was given, that of the data folder, or that of the sign-in."""
        url = self.given_url or self.own_url()
        if url is None and (kept := self.files.kept()) is not None:
            url = kept.url
        if url is None:
            message = "No gateway is known: name it with --api-url or METERGATE_API_URL, or start `metergate up` here."
            raise CommandFailed(message, USAGE)
        return url.rstrip("/")


# Returns the session by an `Output`'s options; raises `CommandFailed`.
FindSession = Callable[..., Session]
