"""Codes of authenticator apps: RFC 6238's own values, clocks that differ, and what apps read."""

import base64
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.identity.codes import TOTP_DRIFT, TOTP_STEP_S, totp_code, totp_secret, totp_step, totp_uri

SECRET = totp_secret(b"12345678901234567890")


@pytest.mark.parametrize(
    ("at_s", "code"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_the_values_of_the_standard(at_s, code):
    """RFC 6238, appendix B, whose codes of 8 digits end in those of 6."""
    assert totp_code(SECRET, at_s // TOTP_STEP_S) == code[-6:]
    assert totp_step(SECRET, code[-6:], at_s) == at_s // TOTP_STEP_S


@given(st.binary(min_size=20, max_size=20), st.integers(90, 2**40), st.integers(-4, 4))
def test_a_code_of_a_neighbouring_step_alone_is_taken(random, at_s, steps):
    secret, step = totp_secret(random), at_s // TOTP_STEP_S + steps
    found = totp_step(secret, totp_code(secret, max(0, step)), at_s)
    if abs(steps) <= TOTP_DRIFT:
        assert found is not None
        assert totp_code(secret, found) == totp_code(secret, step)
    else:
        assert found is None or totp_code(secret, found) == totp_code(secret, max(0, step))


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "１２３４５６", "\0" * 6, "28708", " 287082"])
def test_what_is_no_code_is_of_no_step(code):
    assert totp_step(SECRET, code, 59) is None


def test_what_apps_read():
    parts = urlsplit(totp_uri(SECRET, "Acme & Co", "ada+x@example.com"))
    assert (parts.scheme, parts.netloc, parts.path) == ("otpauth", "totp", "/Acme%20%26%20Co:ada%2Bx%40example.com")
    assert parse_qs(parts.query) == {
        **{"secret": [SECRET], "issuer": ["Acme & Co"]},
        **{"algorithm": ["SHA1"], "digits": ["6"], "period": ["30"]},
    }
    assert base64.b32decode(SECRET) == b"12345678901234567890"
