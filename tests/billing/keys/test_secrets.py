"""Which operators' keys are known to be none that could be guessed."""

import hashlib
import secrets

import pytest

from billing.keys.secrets import made_at_random


def test_what_the_documented_commands_make():
    for _ in range(200):
        assert made_at_random(secrets.token_hex(32))
        assert made_at_random(f"mga_{secrets.token_urlsafe(32)}")


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "correct-horse-battery-staple-of-the-gateway-of-acme-2024",
        "mga_the-admin-key-of-the-gateway-of-acme-in-2024",
        "0" * 64,
        "0123456789abcdef" * 4,
        "deadbeef" * 8,
        hashlib.sha256(b"too short").hexdigest()[:62],
        hashlib.sha256(b"too long").hexdigest() + "9f",
        hashlib.sha256(b"a line").hexdigest() + "\n",
        "mga_R1-jWY9gIP_tBSp_21Kmn8jzAP6qRH29zqpBQm84cg",
        f"mga_{'x' * 43}",
    ],
)
def test_what_a_person_may_have_thought_of_or_shortened(secret):
    assert not made_at_random(secret)
