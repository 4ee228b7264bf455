"""A secret's text is shown only by `reveal`."""

import dataclasses
import pickle

import pytest

from gateway.config.settings import Secret


def test_no_way_of_printing_shows_it():
    secret = Secret("sk-very-secret")
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>5}",
        repr([secret]),
        repr({"k": secret}),
    ]
    assert not any("very" in text for text in shown)
    assert str(secret) == "***"


def test_a_dataclass_does_not_open_it():
    @dataclasses.dataclass(frozen=True, slots=True)
    class Holder:
        key: Secret

    holder = Holder(Secret("sk-very-secret"))
    assert "very" not in repr(holder)
    assert "very" not in repr(dataclasses.asdict(holder))


def test_it_is_revealed_and_compared():
    secret = Secret("sk-ü")
    assert secret.reveal() == "sk-ü"
    assert secret.matches("sk-ü")
    assert not secret.matches("sk-")
    assert not secret.matches("\udcff")
    assert secret == Secret("sk-ü")
    assert secret != Secret("other")
    assert secret != "sk-ü"
    assert {secret: 1}[Secret("sk-ü")] == 1
    assert pickle.loads(pickle.dumps(secret)) == secret  # noqa: S301 - a worker process may get it so


def test_it_is_not_empty():
    with pytest.raises(ValueError, match="not empty"):
        Secret("")
