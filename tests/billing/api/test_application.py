import asyncio
import gzip
import logging
from dataclasses import replace

import pytest
from aiohttp.test_utils import TestClient, TestServer

from billing.accounts.accounts import Account, Accounts
from billing.database.connection import Database
from tests.billing.api.support import ADMIN_KEY, serving
from tests.billing.support import PLANS


async def test_without_an_admin_key_configured_nobody_is_admin(services, billing):
    for unset in (None, ""):
        async with serving(replace(services, admin_api_key=unset), billing) as api:
            for headers in ({}, {"X-Admin-Key": ""}, {"X-Admin-Key": "None"}):
                answer = await api.call("GET", "/api/admin/accounts", headers=headers)
                answer.refused(401, "invalid_api_key")


def test_services_do_not_show_the_admin_key(services):
    assert ADMIN_KEY not in repr(services)


@pytest.mark.parametrize("path", ["/api/none", "/api/", "/api/admin", "/api/admin/none", "/api/account", "/api/ping/x"])
async def test_unknown_paths_are_404_in_the_envelope(api, path):
    (await api.call("GET", path)).refused(404, "not_found")
    (await api.call("POST", path)).refused(404, "not_found")


async def test_other_methods_are_405_with_allow(api):
    answer = await api.call("PUT", "/api/admin/accounts")
    answer.refused(405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    answer = await api.call("POST", "/api/account/balance")
    answer.refused(405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD"


async def test_what_is_not_under_api_is_left_alone(outer):
    async with TestClient(TestServer(outer)) as client:
        async with client.get("/v1/own") as response:
            assert await response.text() == "mine"
        async with client.get("/v1/none") as response:
            assert (response.status, response.content_type) == (404, "text/plain")
        async with client.get("/api/none") as response:
            assert (response.status, response.content_type) == (404, "application/json")


async def test_a_deeply_nested_body_is_400(services, billing):
    deep = b'{"name": "a", "quotas": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    async with serving(services, billing) as api:
        answer = await api.admin("POST", "/accounts", data=deep)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request_error")


async def test_a_body_beyond_the_bound_is_413(api, services):
    fits = b'{"name": "a"' + b" " * (services.max_body_bytes - 13) + b"}"
    assert (await api.admin("POST", "/accounts", data=fits)).status == 201
    (await api.admin("POST", "/accounts", data=fits + b" ")).refused(413, "request_too_large")

    async def chunks(count):
        for _ in range(count):
            yield b" " * 1024

    answer = await api.admin("POST", "/accounts", data=chunks(65))
    answer.refused(413, "request_too_large")
    (await api.call("POST", "/api/admin/accounts", data=fits + b" ")).refused(401, "invalid_api_key")


async def test_compressed_bodies_are_bounded_as_they_decode(api):
    headers = {"X-Admin-Key": ADMIN_KEY, "Content-Encoding": "gzip"}
    small = gzip.compress(b'{"name": "packed"}')
    assert (await api.call("POST", "/api/admin/accounts", data=small, headers=headers)).json["name"] == "packed"
    bomb = gzip.compress(b" " * 10_000_000)
    answer = await api.call("POST", "/api/admin/accounts", data=bomb, headers=headers)
    answer.refused(413, "request_too_large")
    answer = await api.call("POST", "/api/admin/accounts", data=b"not gzip", headers=headers)
    answer.refused(400, "invalid_request_error")


async def test_a_body_that_does_not_come_in_time_is_refused_as_such(services, billing):
    async def trickle():
        yield b"{"
        await asyncio.Event().wait()

    async with serving(replace(services, request_timeout_s=0.2), billing) as api:
        answer = await api.admin("POST", "/accounts", data=trickle())
        assert "faster" in answer.refused(400, "invalid_request_error")


async def test_codings_that_are_not_known_are_refused(api):
    for coding in ("gzip, gzip", "snappy"):
        headers = {"X-Admin-Key": ADMIN_KEY, "Content-Encoding": coding}
        answer = await api.call("POST", "/api/admin/accounts", data=b'{"name": "packed"}', headers=headers)
        assert answer.refused(400, "invalid_request_error")


class StuckAccounts(Accounts):
    """Never answers."""

    async def get(self, account_id: str) -> Account:
        await asyncio.Event().wait()
        raise AssertionError


class BrokenAccounts(Accounts):
    """Raises an unexpected exception."""

    async def get(self, account_id: str) -> Account:
        raise RuntimeError("a secret of ours")


async def test_a_request_that_takes_too_long_is_503(services, billing):
    stuck = StuckAccounts(billing.database, PLANS, billing.change_notifier, billing.new_id)
    async with serving(replace(services, accounts=stuck, request_timeout_s=0.2), billing) as api:
        answer = await api.admin("GET", "/accounts/acc_x")
        answer.refused(503, "temporarily_unavailable")
        assert int(answer.headers["Retry-After"]) > 0


async def test_an_unexpected_failure_is_500_and_says_nothing(services, billing, caplog):
    broken = BrokenAccounts(billing.database, PLANS, billing.change_notifier, billing.new_id)
    with caplog.at_level(logging.ERROR):
        async with serving(replace(services, accounts=broken), billing) as api:
            answer = await api.admin("GET", "/accounts/acc_x")
    assert "secret" not in answer.refused(500, "server_error")
    assert "a secret of ours" in caplog.text


async def test_postgres_away_is_503(services, billing):
    away = Database("postgresql://nobody@127.0.0.1:1/none", timeout_s=1.0)

    async def authenticate(secret):
        await away.value("SELECT 1")
        return

    accounts = Accounts(away, PLANS, billing.change_notifier, billing.new_id)
    async with serving(replace(services, accounts=accounts, authenticate=authenticate), billing) as api:
        for answer in (await api.admin("GET", "/accounts"), await api.get("mg_x", "/account/balance")):
            answer.refused(503, "temporarily_unavailable")
            assert int(answer.headers["Retry-After"]) > 0
    await away.close()


async def test_answers_are_not_cached(api):
    assert (await api.admin("GET", "/accounts")).headers["Cache-Control"] == "no-store"
