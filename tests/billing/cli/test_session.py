"""Who is signed in on this machine: who may read it, which gateway gets it, and that no refresh token is used twice."""

import asyncio
import fcntl
import json
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from billing.cli.output import CommandFailed
from billing.cli.session import Kept, Pending, Session, TokenFiles, auth_folder
from billing.client.calls import BillingCalls
from billing.client.errors import Exchanged, Refused
from billing.schemas.people import TokenPairShape

URL = "http://gateway.example.com"
NOW_S, LIFE_S = 1_900_000_000.0, 3600


class Issuer(BillingCalls):
    """Answers as a gateway that has given `refresh-1`: a refresh token is good once."""

    def __init__(self, seen: Callable[[], object] = lambda: None) -> None:
        super().__init__(URL)
        self.good, self.asked, self.seen, self.narrows = "refresh-1", list[str](), seen, True

    async def _exchange(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Exchanged:
        self.seen()
        self.asked.append(target.rpartition("/")[2])
        number = len(self.asked) + 1
        answer = {"access_token": f"access-{number}", "expires_in": LIFE_S, "scope": "", "session_id": "ses_1"}
        if target == "/api/auth/token" and self.narrows:
            return Exchanged(200, {}, json.dumps(answer).encode())
        if json.loads(body or b"{}").get("refresh_token") != self.good:
            error = {"error": {"message": "No.", "type": "x", "param": None, "code": "invalid_token"}}
            return Exchanged(401, {}, json.dumps(error).encode())
        self.good = f"refresh-{number}"
        return Exchanged(200, {}, json.dumps({**answer, "refresh_token": self.good}).encode())


@dataclass
class Machine:
    """Token files, and places that use them with an issuer."""

    files: TokenFiles
    issuer: Issuer = field(default_factory=Issuer)
    opened: list[tuple[str, str | None]] = field(default_factory=list)

    def session(self, *, given_url: str | None = None, clock: Callable[[], float] = lambda: NOW_S) -> Session:
        def client(url: str, token: str | None) -> BillingCalls:
            self.opened.append((url, token))
            return self.issuer

        return Session(self.files, given_url, lambda: None, None, client, {}, 5.0, clock)

    def sign_in(self, life_s: int = LIFE_S) -> None:
        pair = TokenPairShape(
            access_token="access-1", refresh_token="refresh-1", expires_in=life_s, scope="", session_id="ses_1"
        )
        self.session().keep_signed_in(URL, pair)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(TokenFiles(tmp_path / "config" / "metergate" / "auth"))


def test_files_are_their_owner_s_alone(machine):
    folder = machine.files.folder
    folder.mkdir(parents=True, mode=0o755)
    (folder / "api-token").touch(0o644)
    before = os.umask(0)
    try:
        machine.files.keep_pending(Pending(url=URL, email="a@example.com", purpose="verify", challenge=None))
        machine.sign_in()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {(each.name, stat.S_IMODE(each.stat().st_mode)) for each in folder.iterdir()} == {
        ("api-token", 0o600),
        ("session.json", 0o600),
        ("lock", 0o600),
    }
    assert (folder / "api-token").read_text() == "access-1\n"
    assert "refresh-1" not in repr(machine.files.kept())
    machine.files.forget()
    assert [each.name for each in folder.iterdir()] == ["lock"]
    with pytest.raises(CommandFailed, match="auth login"):
        machine.session().kept()
    (folder / "session.json").write_bytes(b"{")
    with pytest.raises(CommandFailed, match=r"session\.json can't be read"):
        machine.session().kept()


def test_a_relative_xdg_config_home_is_none():
    assert auth_folder({"XDG_CONFIG_HOME": "/x"}) == Path("/x/metergate/auth")
    assert auth_folder({"XDG_CONFIG_HOME": "x"}) == auth_folder({})


def test_a_token_goes_to_the_gateway_alone_that_gave_it(machine):
    machine.sign_in()
    asyncio.run(machine.session().open_signed_in())
    asyncio.run(machine.session(given_url=f"{URL}/").open_signed_in())
    assert machine.opened == 2 * [(URL, "access-1")]
    with pytest.raises(CommandFailed, match="signed in at"):
        asyncio.run(machine.session(given_url="http://other.example.com").open_signed_in())
    assert len(machine.opened) == 2


def test_a_token_is_renewed_under_the_lock(machine):
    """Whoever else wants to renew it waits: two that use one refresh token end the session."""
    held = []

    def try_lock():
        with (machine.files.folder / "lock").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)

    machine.issuer.seen = try_lock
    machine.sign_in(life_s=1)
    asyncio.run(machine.session().open_signed_in())
    asyncio.run(machine.session().renewed(None, None))
    assert machine.opened[-3:] == [(URL, None), (URL, "access-2"), (URL, None)]
    assert (machine.issuer.asked, held) == (2 * ["refresh"], 2 * [True])
    assert machine.files.token() == "access-3"
    with machine.files.locked(1), pytest.raises(CommandFailed, match="try again"), machine.files.locked(0):
        pass


def test_who_has_waited_for_the_lock_takes_the_token_that_was_made_meanwhile(machine):
    machine.sign_in(life_s=1)
    looked = threading.Event()

    def clock():
        looked.set()  # it has read the token that ends
        return NOW_S

    with machine.files.locked(1):
        thread = threading.Thread(target=lambda: asyncio.run(machine.session(clock=clock).open_signed_in()))
        thread.start()
        assert looked.wait(30)
        kept = machine.session().kept()
        machine.files.keep(msgspec.structs.replace(kept, expires_at_s=int(NOW_S) + LIFE_S), "access-of-another")
    thread.join()
    assert machine.issuer.asked == []
    assert machine.opened == [(URL, "access-of-another")]


def test_a_token_that_was_narrowed_is_never_replaced_by_one_that_may_do_more(machine):
    machine.sign_in()
    kept, token = asyncio.run(machine.session().renewed("billing:read", None))
    assert (kept.scope, token, machine.files.token()) == ("billing:read", "access-3", "access-3")
    machine.issuer.narrows = False
    with pytest.raises(Refused):
        asyncio.run(machine.session(clock=lambda: NOW_S + LIFE_S).open_signed_in())
    assert machine.files.token() == "access-3"
    assert machine.files.kept() == Kept(
        url=URL, refresh_token=machine.issuer.good, expires_at_s=int(NOW_S) + LIFE_S, scope="billing:read"
    )  # and the refresh token, which was used, is not lost
    machine.issuer.narrows = True
    asyncio.run(machine.session().renewed("keys:read", None, keep=False))
    assert machine.files.token() == "access-3"
