"""Passwords: which are refused, how few are hashed at once, and that what is not there costs the same work."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from billing.identity.passwords import (
    LEAST_ALONE,
    LEAST_BESIDE,
    MOST,
    WAITING,
    PasswordRefused,
    Passwords,
    TooManySignIns,
    check_password,
    normalized,
)

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
GOOD = "tulip anvil quartz rowing"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(CHEAP)
    yield made
    made.close()


@pytest.mark.parametrize(
    "password",
    [
        GOOD,
        "correct horse battery staple",
        "пять слов подряд без смысла",
        "x" * 7 + "k3 fd9 9s zz",
        "l" + "o" * 14 + "ng way to go home",
    ],
)
def test_a_good_password_is_taken(password):
    check_password(password, LEAST_ALONE, ("ada@example.org", "Ada Lovelace"))


@pytest.mark.parametrize(
    "password",
    [
        "short",
        "fourteen chars",
        "passwordpassword",
        "PasswordPassword",
        "password1234567",
        "Password!!!!!!!!!",
        "123456789012345",
        "098765432109876",
        "aaaaaaaaaaaaaaaa",
        "abcabcabcabcabcabc",
        "abcdefghijklmnop",
        "qwertyuiopasdfgh",
        "2024-11-23-2024-11-23",
        "my metergate key ring",
        "lovelace likes numbers",
        "letters to example.org",
        "letters to ada.byron",
        "x" * (MOST + 1),
        "\N{FULLWIDTH LATIN SMALL LETTER P}asswordpassword",
    ],
)
def test_a_bad_password_is_refused_and_not_shown(password):
    with pytest.raises(PasswordRefused) as refused:
        check_password(password, LEAST_ALONE, ("ada.byron@example.org", "Ada Lovelace"))
    assert password not in str(refused.value)


def test_beside_a_second_factor_eight_characters_suffice():
    check_password("wk7 tuba", LEAST_BESIDE)
    for common in ("password1", "sunshine", "iloveyou"):
        with pytest.raises(PasswordRefused, match="Many people"):
            check_password(common, LEAST_BESIDE)


def test_a_password_that_grows_when_it_is_normalized_is_measured_as_it_is_stored():
    ligature = "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}"  # eighteen characters
    with pytest.raises(PasswordRefused, match="at most"):
        check_password(ligature * 10, LEAST_ALONE)


@given(st.text(max_size=200))
def test_any_text_is_taken_or_refused(password):
    try:
        check_password(password, LEAST_ALONE, (password, ""))
    except PasswordRefused:
        return
    assert LEAST_ALONE <= len(normalized(password)) <= MOST


async def test_a_password_is_compared_in_one_form_of_unicode(passwords):
    stored = await passwords.hash("cafe\N{COMBINING ACUTE ACCENT} tulip anvil")
    assert stored.startswith("$argon2id$")
    assert (await passwords.check(stored, "caf\N{LATIN SMALL LETTER E WITH ACUTE} tulip anvil")).right
    assert not (await passwords.check(stored, "cafe tulip anvil")).right


async def test_nobody_s_password_is_compared_by_the_same_work(passwords, monkeypatch):
    compared = []
    verify = PasswordHasher.verify

    def noted(self, stored, text):
        compared.append(stored)
        return verify(self, stored, text)

    monkeypatch.setattr(PasswordHasher, "verify", noted)
    stored = await passwords.hash(GOOD)
    assert not (await passwords.check(stored, "another one")).right
    assert not (await passwords.check(None, "another one")).right
    assert compared == [stored, passwords.dummy]
    assert [each.split("$")[1:4] for each in compared] == [["argon2id", "v=19", "m=8,t=1,p=1"]] * 2


async def test_a_hash_of_other_parameters_is_made_anew(passwords):
    older = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1).hash(GOOD)
    verdict = await passwords.check(older, GOOD)
    assert verdict.rehashed is not None
    assert "t=1" in verdict.rehashed
    assert (await passwords.check(verdict.rehashed, GOOD)).rehashed is None
    assert (await passwords.check(older, "another one")).rehashed is None


@pytest.mark.parametrize("stored", ["", "plain", "$argon2id$v=19$m=8,t=1,p=1$x$y", "$2b$12$abcdefghijklmnopqrstuv"])
async def test_what_is_no_hash_is_never_right(passwords, stored):
    assert not (await passwords.check(stored, stored)).right


async def test_so_many_are_hashed_at_once_and_a_place_is_kept_until_its_thread_has_ended():
    begun, go_on = threading.Semaphore(0), threading.Event()

    class Slow(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            begun.release()
            go_on.wait(10)
            return super().hash(password, salt=salt)

    passwords = Passwords(Slow(time_cost=1, memory_cost=8, parallelism=1), at_once=2)
    running = [asyncio.create_task(passwords.hash(GOOD)) for _ in range(2)]
    for _ in running:
        await asyncio.to_thread(begun.acquire)
    with pytest.raises(TooManySignIns):
        await passwords.hash(GOOD)
    running[0].cancel()
    await asyncio.wait(running[:1])
    with pytest.raises(TooManySignIns):  # its thread still runs
        await passwords.hash(GOOD)
    elsewhere = [asyncio.create_task(passwords.hash(GOOD, "192.0.2.7")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManySignIns):  # who waits for a turn has a place, too
        await passwords.hash(GOOD, "192.0.2.7")
    others = [asyncio.create_task(passwords.hash(GOOD, f"192.0.2.{number}")) for number in range(8, 8 + WAITING - 4)]
    await asyncio.sleep(0)
    with pytest.raises(TooManySignIns):
        await passwords.hash(GOOD, "198.51.100.1")
    go_on.set()
    await asyncio.gather(running[1], *elsewhere, *others)
    while passwords._places:
        await asyncio.sleep(0)
    await passwords.hash(GOOD)
    passwords.close()
