"""Attacks on tokens, as a table: each is a small change of a token that is good, and none is believed."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from billing.identity.issuers import ForeignRules, IssuerAway, parse_keys
from billing.identity.sessions import Sessions
from billing.identity.tokens import BadToken, SigningKeys, TokenRules, Verified, peek
from tests.billing.identity.issued import (
    GOOD,
    ISSUER,
    NO_DATABASE,
    NOW,
    OTHER_RSA,
    RSA,
    SECRET,
    SHARED,
    Clock,
    Publisher,
    hs256,
    jwk,
    rs256,
    shown,
)

WEAK_RSA = generate_private_key(65_537, 1024)  # noqa: S505
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def raw(header: object, claims: object, signature: bytes = b"x") -> str:
    parts = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in (header, claims, signature)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def spliced(token: str, **claims: Any) -> str:
    """Other claims under the signature of a good token."""
    head, _, signature = token.split(".")
    return f"{head}.{raw({}, {**GOOD, **claims}).split('.')[1]}.{signature}"


def hmac_by_public_key(claims: dict[str, Any]) -> str:
    """The classic confusion of algorithms: what is public as the secret."""
    head = raw({"alg": "HS256", "kid": "one", "typ": "JWT"}, claims).rpartition(".")[0]
    digest = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(head.encode(), PEM)
    return f"{head}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


async def verified(token: str, believer: Sessions | None = None) -> Verified | None:
    return await (believer or shown()).verified(token)


@pytest.mark.parametrize(
    "token",
    [
        rs256(GOOD),
        rs256({**GOOD, "iss": f"{ISSUER}/"}),
        rs256({**GOOD, "aud": ["there", "here"]}),
        rs256({**GOOD, "nbf": NOW}),
        rs256({**GOOD, "iat": NOW + 50}),
        rs256({**GOOD, "exp": NOW - 50}),
        rs256(GOOD, typ="at+jwt"),
        rs256(GOOD, jku="https://evil.example"),
        rs256(GOOD, x5u="https://evil.example"),
        hs256(SHARED),
        hs256({name: value for name, value in SHARED.items() if name not in ("iss", "jti", "iat")}),
    ],
)
async def test_good_tokens_are_believed(token):
    found = await verified(token)
    assert (found.subject.subject, found.operator) == ("ann", False)
    assert found.subject.issuer in (ISSUER, "hs256:other", "hs256:")


ATTACKS = {
    "empty": lambda: "",
    "no token": lambda: "a.b",
    "none": lambda: jwt.encode(GOOD, None, "none", headers={"kid": "one"}),
    "None": lambda: raw({"alg": "None", "kid": "one"}, GOOD),
    "no signature": lambda: rs256(GOOD).rpartition(".")[0] + ".",
    "signature cut": lambda: rs256(GOOD)[:-9],
    "public key as a secret": lambda: hmac_by_public_key(GOOD),
    "public key as the shared secret": lambda: hmac_by_public_key(SHARED),
    "shared secret for who has keys": lambda: hs256(GOOD),
    "shared secret for who has keys, with a kid": lambda: hs256(GOOD, kid="one"),
    "keys for who shares a secret": lambda: rs256(SHARED),
    "HS512": lambda: jwt.encode(SHARED, SECRET * 2, "HS512"),
    "RS512": lambda: jwt.encode(GOOD, RSA, "RS512", headers={"kid": "one"}),
    "another key": lambda: rs256(GOOD, OTHER_RSA),
    "another secret": lambda: hs256(SHARED, SECRET + "!"),
    "embedded jwk": lambda: rs256(GOOD, OTHER_RSA, jwk=jwk(OTHER_RSA)),
    "kid of nobody": lambda: rs256(GOOD, kid="two"),
    "kid that is a path": lambda: rs256(GOOD, OTHER_RSA, kid="../../../dev/null"),
    "kid that is SQL": lambda: rs256(GOOD, OTHER_RSA, kid="' OR 1=1 --"),
    "kid that is no text": lambda: raw({"alg": "RS256", "kid": ["one"]}, GOOD),
    "kid that is long": lambda: rs256(GOOD, kid="k" * 300),
    "crit": lambda: rs256(GOOD, crit=["exp"]),
    "unencoded payload": lambda: raw({"alg": "RS256", "kid": "one", "b64": False}, GOOD),
    "logout token": lambda: rs256(GOOD, typ="logout+jwt"),
    "encrypted": lambda: ".".join(["e30"] * 5),
    "claims exchanged": lambda: spliced(rs256(GOOD), sub="root"),
    "expired": lambda: rs256({**GOOD, "exp": NOW - 61}),
    "for ever": lambda: rs256({**GOOD, "exp": NOW + 367 * 86_400}),
    "without an end": lambda: rs256({name: value for name, value in GOOD.items() if name != "exp"}),
    "an end that is a text": lambda: rs256({**GOOD, "exp": str(NOW + 60)}),
    "an end that is infinite": lambda: rs256({**GOOD, "exp": float("inf")}),
    "early": lambda: rs256({**GOOD, "nbf": NOW + 61}),
    "issued later": lambda: rs256({**GOOD, "iat": NOW + 61}),
    "for others": lambda: rs256({**GOOD, "aud": "there"}),
    "for a longer name": lambda: rs256({**GOOD, "aud": "here.evil"}),
    "for nobody": lambda: rs256({name: value for name, value in GOOD.items() if name != "aud"}),
    "shared, for others": lambda: hs256({**SHARED, "aud": "there"}),
    "for our own audience": lambda: rs256({**GOOD, "aud": "metergate"}),
    "another issuer": lambda: rs256({**GOOD, "iss": "https://evil.example"}),
    "an issuer with a path": lambda: rs256({**GOOD, "iss": f"{ISSUER}/evil"}),
    "our own issuer": lambda: hs256({**SHARED, "iss": "metergate", "aud": "metergate", "ses": "ses_1"}),
    "our own issuer, by keys": lambda: rs256({**GOOD, "iss": "metergate", "aud": "metergate", "ses": "ses_1"}),
    "an issuer that is no text": lambda: raw({"alg": "RS256", "kid": "one"}, {**GOOD, "iss": 1}),
    "nobody": lambda: rs256({name: value for name, value in GOOD.items() if name != "sub"}),
    "an empty name": lambda: rs256({**GOOD, "sub": ""}),
    "a name with NUL": lambda: rs256({**GOOD, "sub": "ann\0"}),
    "a long name": lambda: rs256({**GOOD, "sub": "a" * 300}),
    "claims that are a list": lambda: raw({"alg": "RS256", "kid": "one"}, [GOOD]),
    "deep claims": lambda: raw({"alg": "RS256"}, b"[" * 5000),
    "large": lambda: rs256({**GOOD, "more": "x" * 9000}),
    "line break": lambda: rs256(GOOD) + "\n",
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_attacks_are_not_believed(attack):
    assert await verified(ATTACKS[attack]()) is None


async def test_who_has_no_issuer_believes_none():
    own = SigningKeys(None, TokenRules(secret="own" * 11), str, time.monotonic)
    believer = Sessions(NO_DATABASE, own, str)
    assert await verified(rs256(GOOD), believer) is None
    only_keys = shown(secret=None)
    assert await verified(hs256(SHARED), only_keys) is None
    assert await verified(rs256(GOOD), only_keys)


@pytest.mark.parametrize(
    ("claims", "operator"),
    [
        ({"aud": "staff", "role": "admin"}, True),
        ({"aud": ["here", "staff"], "role": "operator"}, True),
        ({"aud": "staff", "scope": "openid operator"}, True),
        ({"aud": "staff", "role": ["user", "admin"]}, True),
        ({"aud": "staff"}, False),
        ({"aud": "staff", "role": "administrator"}, False),
        ({"aud": "staff", "role": {"admin": True}}, False),
        ({"role": "admin", "scope": "operator"}, False),
    ],
)
async def test_the_internal_audience_alone_makes_operators(claims, operator):
    for token in (rs256({**GOOD, **claims}), hs256({**SHARED, **claims})):
        found = await verified(token)
        assert found.operator == operator
    nobody = shown(internal_audience=None)
    assert (await verified(rs256({**GOOD, **claims, "aud": "staff"}), nobody)) is None


async def test_scopes_of_others_narrow():
    for scope, narrowed in (("openid profile", None), ("openid billing:read", {"billing:read"}), (7, None)):
        found = await verified(rs256({**GOOD, "scope": scope}))
        assert found.narrowed == narrowed


async def test_an_address_counts_where_it_is_verified():
    for claim, is_verified in ((True, True), (False, False), ("true", False), (1, False), (None, False)):
        found = await verified(rs256({**GOOD, "email": "Ann@Example.com", "email_verified": claim, "name": "A\0nn"}))
        assert (found.subject.email, found.subject.verified) == ("ann@example.com", is_verified)
        assert found.subject.name == "Ann"
    for wrong in ("ann", 7, "ann@example.com\r\nBcc: eve@example.com"):
        found = await verified(rs256({**GOOD, "email": wrong, "email_verified": True}))
        assert (found.subject.email, found.subject.verified) == (None, False)


async def test_keys_are_asked_for_with_restraint():
    publisher, clock = Publisher([jwk(RSA)]), Clock()
    believer = shown(publisher, clock)
    for _ in range(3):
        assert await verified(rs256(GOOD), believer)
    assert publisher.asked == 1
    publisher.keys = [jwk(RSA), jwk(OTHER_RSA, "two")]
    for number in range(20):
        assert await verified(rs256(GOOD, OTHER_RSA, kid=f"made up {number}"), believer) is None
    assert await verified(rs256(GOOD, OTHER_RSA, kid="two"), believer) is None, "asked a moment ago"
    assert publisher.asked == 1
    clock.at += 61
    assert await verified(rs256(GOOD, OTHER_RSA, kid="two"), believer)
    assert publisher.asked == 2
    publisher.keys = [jwk(OTHER_RSA, "two")]
    clock.at += 901
    assert await verified(rs256(GOOD), believer) is None, "a key that was taken back ends"
    assert publisher.asked == 3


async def test_keys_stay_in_use_while_their_issuer_is_away_for_a_day():
    publisher, clock = Publisher([jwk(RSA)]), Clock()
    believer = shown(publisher, clock)
    assert await verified(rs256(GOOD), believer)
    publisher.away = True
    clock.at += 80_000
    for _ in range(3):
        assert await verified(rs256(GOOD), believer)
    assert publisher.asked == 2
    clock.at += 10_000
    with pytest.raises(IssuerAway):
        await verified(rs256(GOOD), believer)
    publisher.away = False
    clock.at += 61
    assert await verified(rs256(GOOD), believer)


async def test_an_issuer_that_was_never_reached_is_asked_every_few_seconds():
    publisher, clock = Publisher([jwk(RSA)], away=True), Clock()
    believer = shown(publisher, clock)
    for _ in range(3):
        with pytest.raises(IssuerAway):
            await verified(rs256(GOOD), believer)
    assert publisher.asked == 1
    publisher.away, clock.at = False, 6.0
    assert await verified(rs256(GOOD), believer)


def test_keys_that_are_none_are_left_out():
    good = jwk(RSA)
    wrong = [
        7,
        {},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a"},
        {**good, "use": "enc"},
        {**good, "alg": "RS512"},
        jwk(WEAK_RSA, "weak"),
        {**good, "n": "!"},
        {**good, "e": "AQ"},
        {**good, "n": ""},
        {**good, "kid": 7},
    ]
    for each in wrong:
        assert parse_keys(json.dumps({"keys": [each]}).encode()) == {}, each
    assert set(parse_keys(json.dumps({"keys": [*wrong, good]}).encode())) == {"one", None}
    assert set(parse_keys(json.dumps({"keys": [good, jwk(OTHER_RSA, None)]}).encode())) == {"one"}
    for rubbish in (b"", b"[]", b"<html>", b'{"keys": 7}', b"[" * 9999):
        with pytest.raises(IssuerAway):
            parse_keys(rubbish)


async def test_a_token_without_a_key_id_is_that_of_the_only_key():
    token = jwt.encode(GOOD, RSA, "RS256")
    assert await verified(token, shown(Publisher([jwk(RSA)])))
    assert await verified(token, shown(Publisher([jwk(RSA, None)])))
    assert await verified(token, shown(Publisher([jwk(RSA), jwk(OTHER_RSA, "two")]))) is None


def test_what_is_read_before_a_token_is_believed():
    header, issuer = peek(rs256(GOOD))
    assert (header.kid, issuer) == ("one", ISSUER)
    with pytest.raises(BadToken):
        peek(raw({"kid": "one"}, GOOD))


def test_rules_that_can_t_be_meant():
    for wrong in ({"audience": ""}, {"audience": "metergate"}, {"audience": "a", "internal_audience": "metergate"}):
        with pytest.raises(ValueError, match="audience"):
            ForeignRules(**wrong)
    for wrong in ({"secret": "short"}, {"access_s": 0}, {"grace_s": -1}):
        with pytest.raises(ValueError, match=r"bytes|above zero"):
            TokenRules(**wrong)
