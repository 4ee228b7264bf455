"""What dialects declare reaches the parts that name no dialect, and nothing else there names one."""

import pytest

from billing.keys import secrets
from gateway.dialects.declarations import Declarations
from gateway.dialects.declared import DECLARED, KEY_HEADERS, key_headers, never_sent
from gateway.dialects.registry import DIALECTS
from gateway.proxy.headers import Fixed, incoming, outgoing
from gateway.server import caching, cors

FIXED = Fixed.of(None, {})


def test_every_dialect_declares_what_is_collected():
    assert {dialect.declared for dialect in DIALECTS} == set(DECLARED.values())
    named = {dialect.name: dialect.declared for dialect in DIALECTS if dialect.name in DECLARED}
    assert named == DECLARED


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.__name__)
def test_a_header_that_is_declared_passes_to_providers_and_may_be_sent_by_a_browser(
    dialect,
):
    """The recipe of CONTRIBUTING: a name in `sent_headers` is all that it takes."""
    declared = dialect.declared
    names = [*declared.sent_headers, *(f"{prefix}x" for prefix in declared.sent_prefixes)]
    sent = outgoing([(name.title().encode(), b"v") for name in names], FIXED, "acct").lower()
    assert all(f"{name}: v\r\n".encode() in sent for name in names)
    assert set(declared.sent_headers + declared.browser_headers + declared.key_headers) <= set(cors.ALLOWED)
    assert set(declared.sent_prefixes) <= set(cors.ALLOWED_PREFIXES)
    assert set(declared.known_by + declared.key_headers) <= set(caching.VARY.split(", "))


@pytest.mark.parametrize("declared", DECLARED.values(), ids=DECLARED)
def test_what_providers_answer_passes_as_it_is_declared(declared):
    for name in declared.answer_headers:
        assert incoming([(name.encode(), b"v")]).lines == f"{name}: v\r\n".encode()
    for prefix in declared.renamed_prefixes:
        given = f"{prefix}limit".encode()
        assert incoming([(given, b"v")]).lines == b"x-upstream-%b: v\r\n" % given.removeprefix(b"x-")
    for name in declared.request_id_headers:
        assert incoming([(name.encode(), b"v")]).request_id == b"v"


def test_a_key_is_read_from_every_declared_header_and_never_sent():
    assert set(secrets.KEY_HEADERS) == set(KEY_HEADERS)  # the billing API takes a key where any dialect does
    assert all(map(never_sent, KEY_HEADERS))
    own = Declarations(key_headers=("x-own-key",))
    assert key_headers(own) == (*KEY_HEADERS, "x-own-key")
