"""What every operation refuses, by the table of operations; and what an operation makes of a client's call.

Who may call what, by role and status, is `test_permissions`'s matrix. A new operation is tried here by itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from billing.api.operation import Access, OfOne, Operation, operation
from billing.api.operations import OPERATIONS, KeyOperations, Operations
from billing.api.services import Services
from billing.client.calls import BillingCalls
from billing.client.errors import Exchanged
from billing.permissions import SCOPES
from billing.schemas.accounts import AccountShape, NewQuotas
from billing.schemas.base import PageQuery
from tests.billing.api.support import ADMIN_KEY, Api, serving, token_of
from tests.billing.identity.support import new_organization, new_user
from tests.billing.support import Billing
from tests.support.tables import Tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

Declared = Operation[..., Any]
SERVICE_KEY = "service-key-of-the-tests"
IDS = {"provider": "none", "token": "no-such-token"}
WRONG_ADMINS = (
    {},
    {"X-Admin-Key": ""},
    {"X-Admin-Key": ADMIN_KEY + "x"},
    {"X-Admin-Key": ADMIN_KEY[:-1]},
    {"X-Admin-Key": "é"},
    {"Authorization": f"Bearer {ADMIN_KEY}"},
)
WRONG_CALLERS = ({}, {"Authorization": "Bearer mg_none"})
LIMITS = ("0", "1001", "-1", "x", "", "1.0", "1e2", "٣", "99999999999999999999")
CURSORS = ("", "!", "YQ==YQ", "gA", "YSBi", "é", "AAAA", "x" * 600)
# What can be no body of any operation; an empty one is none where a body may be left out.
NO_BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"\xff",
    b'{"a": NaN}',
    b'{"a": "b"} x',
    b'{"a": "\xff"}',
    b'{"a": "\\ud800"}',
    b'{"a": ' + b"[" * 9000,
)
NO_IDS = ("%00", "a%20b", "x" * 300)


ABSENT = "ABSENT"
TABLES = Tables(__file__).content


@dataclass(frozen=True)
class World:
    """The API, and headers of somebody who may call each kind of operation."""

    api: Api
    headers: dict[Access, dict[str, str]]
    ids: dict[str, str]
    narrow_key: str

    async def traces(self) -> tuple[object, ...]:
        """What a change would leave."""
        value = self.api.billing.database.value
        return await value("SELECT count(*) FROM audit_log"), await value("SELECT count(*) FROM mail_outbox")

    async def call(self, each: Declared, headers: dict[str, str] | None = None, **options: Any) -> Any:
        """Call an operation about what is not there, as somebody who may."""
        named = {name: self.ids["org_id"] if name == "org_id" else IDS.get(name, "none") for name in each.ids}
        given = self.headers[each.who] if headers is None else headers
        return await self.api.call(each.method, each.path_of(*named.values()), headers=given, **options)


@pytest.fixture
async def world(services: Services, billing: Billing) -> AsyncIterator[World]:
    owner = await new_user(billing, "ana@example.com")
    organization = await new_organization(billing, "Acme", owner)
    account_id = organization.account_id
    key, secret = await billing.keys.create(account_id, "all", user_id=owner, scopes=tuple(SCOPES))
    _, narrow = await billing.keys.create(account_id, "narrow", user_id=owner, scopes=("none:none",))
    async with serving(replace(services, service_api_key=SERVICE_KEY), billing) as api:
        headers: dict[Access, dict[str, str]] = {
            Access.anyone: {},
            Access.caller: {"Authorization": f"Bearer {secret}"},
            Access.person: {"Authorization": f"Bearer {token_of(owner)}"},
            Access.service: {"X-API-Key": SERVICE_KEY, "X-Service-Name": "tests"},
            Access.admin: {"X-Admin-Key": ADMIN_KEY},
        }
        ids = {"org_id": organization.id, "account_id": account_id, "key_id": key.id, "user_id": owner}
        yield World(api, headers, ids, narrow)


def asking(schema: type[msgspec.Struct] | None = None) -> Iterator[Declared]:
    """Operations that take a body, or a query of a schema."""
    for each in OPERATIONS:
        asked = each.body if schema is None else each.query
        if asked is not None and (schema is None or issubclass(asked, schema)):
            yield each


async def test_nobody_gets_in_by_a_wrong_key(world):
    for each in OPERATIONS:
        wrong = WRONG_ADMINS if each.who is Access.admin else WRONG_CALLERS
        for headers in wrong if each.who is not Access.anyone else ():
            answer = await world.call(each, headers)
            message = answer.refused(401, "invalid_api_key")
            assert ADMIN_KEY not in message, each


async def test_a_key_without_the_scope_is_told_which_it_needs(world):
    narrow, seen = {"Authorization": f"Bearer {world.narrow_key}"}, 0
    for each in OPERATIONS:
        if each.who is Access.caller and each.body is None and set(each.ids) <= {"org_id"}:
            answer = await world.call(each, narrow)
            if answer.status in (404, 503):  # a read changes nothing: what is not found comes before
                assert each.method == "GET"
                continue
            answer.refused(403, "insufficient_scope")
            assert answer.error["required_scope"] == each.scope
            seen += 1
    assert seen > 15


async def test_a_limit_out_of_range_and_a_bad_cursor_are_named(world):
    seen = 0
    for each in asking(PageQuery):
        of_page = () if each.body is not None else CURSORS  # a cursor is read after the body
        for name, values in (("limit", LIMITS), ("cursor", of_page)):
            for value in values:
                answer = await world.call(each, params={name: value})
                if answer.status not in (404, 503):  # what may come before: whose list it is, and a store that is away
                    answer.refused(400, "invalid_request_error", name)
                    seen += 1
    assert seen > 150


async def test_what_is_no_body_is_400(world):
    seen = 0
    for each in asking():
        for body in NO_BODIES:
            if body or not each.optional:
                answer = await world.call(each, data=body)
                assert (answer.status, answer.error["type"]) == (400, "invalid_request_error"), (each, body)
        seen += 1
    assert seen > 60


async def test_an_unknown_field_is_named(world):
    for each in asking():
        required = {field.name for field in msgspec.structs.fields(_struct(each.body)) if field.required}
        answer = await world.call(each, json={"zzz": 1, **dict.fromkeys(required, "x")})
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error"), each
        if not required:
            assert answer.error["param"] == "zzz", each


@pytest.mark.parametrize("name", TABLES)
async def test_a_wrong_field_is_named(world, name):
    """And nothing is changed, and nobody is mailed."""
    operation = getattr(Operations, name)
    path = operation.path_of(*(world.ids[each] for each in operation.ids))
    given = TABLES[name].get("whole", {}).items()
    whole = {field: value.format_map(world.ids) if isinstance(value, str) else value for field, value in given}
    before = await world.traces()
    for param, changed, *words in (*TABLES[name]["refused"], *TABLES[name].get("also", ())):
        asked = {**whole, **changed} if isinstance(changed, dict) else changed
        if isinstance(asked, dict):
            asked = {field: value for field, value in asked.items() if value != ABSENT}
        options = {"params" if operation.body is None else "json": asked}
        headers = world.headers[operation.who]
        answer = await world.api.call(operation.method, path, headers=headers, **options)
        message = answer.refused(400, "invalid_request_error", param)
        assert "".join(words) in message
    assert await world.traces() == before


def _struct(body: Any) -> type[msgspec.Struct]:
    return getattr(body, "__origin__", body)


async def test_what_is_not_there_and_what_can_be_no_id_is_not_found(world):
    seen = 0
    for name in dir(Operations):
        each = getattr(Operations, name)
        if not isinstance(each, Operation) or each.who is not Access.admin or not each.ids:
            continue
        whole = TABLES.get(name, {}).get("whole", {})
        required = {} if each.body is None else {f.name for f in msgspec.structs.fields(each.body) if f.required}
        if not set(required) - set(whole):
            for no_id in ("none", *NO_IDS):
                path = re.sub(r"\{\w+\}", no_id, each.plain_path)
                sent = {} if each.body is None else {"json": whole}
                answer = await world.api.call(each.method, path, headers=world.headers[each.who], **sent)
                assert answer.status in (404, 503 if no_id == "none" else 404), (name, no_id, answer)
            seen += 1
    assert seen > 20


def test_names_are_unique_and_every_operation_is_a_method_of_the_client():
    declared = {(each.method, each.path) for each in OPERATIONS}
    assert len(declared) == len(OPERATIONS)
    methods = {name for name in dir(Operations) if isinstance(getattr(Operations, name), Operation)}
    services = [each for each in OPERATIONS if each.path.startswith("/api/service")]
    of_plans = 2  # features of plans, which services ask for
    assert len(methods) == len(OPERATIONS) - len(services) + of_plans


def test_operations_are_light_to_import():
    """Every command loads them."""
    code = "import sys, billing.api.operations; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert {"aiohttp", "asyncpg", "redis", "stripe"} & set(done.stdout.split()) == set()


def test_who_may_call_is_the_operator_where_nothing_is_said():
    assert operation("GET", "/x", AccountShape).who is Access.admin
    assert operation("GET", "/x", AccountShape, scope="a:b").who is Access.caller
    assert operation("GET", "/x", AccountShape, who=Access.anyone, scope="a:b").who is Access.anyone


class Recording(BillingCalls):
    """A client that keeps what it sends."""

    async def _exchange(self, method: str, target: str, headers: Any, body: bytes | None) -> Exchanged:
        self.sent = method, target, body
        return Exchanged(204 if method == "DELETE" else 200, {}, b'{"data": [], "next_cursor": null}')


async def test_a_call_is_made_of_ids_and_fields():
    client = Recording("http://gateway")
    assert (await client.keys(account_id="acc_1", limit=5, cursor=None)).data == []
    assert client.sent == ("GET", "/api/admin/keys?limit=5&account_id=acc_1", None)
    await client.revoke_key("a/b ?")
    assert client.sent == ("DELETE", "/api/admin/keys/a%2Fb%20%3F", None)
    assert Recording.revoke_key is KeyOperations.revoke_key
    with pytest.raises(TypeError, match="takes 1 ids, not 0"):
        await client.revoke_key()
    with pytest.raises(TypeError, match="takes no name"):
        await client.revoke_key("key_1", name="x")
    with pytest.raises(TypeError, match="account_id"):
        await client.create_key(name="x")


def test_a_body_has_its_defaults_and_a_query_what_was_given():
    both = Operation(
        method="POST", path=OfOne("/x/{id:.+}"), answer=None, who=Access.admin, query=PageQuery, body=NewQuotas
    )
    assert both.ids == ["id"]
    assert both.plain_path == "/x/{id}"
    query, body = both.asked({"limit": 7, "cursor": None, "quotas": []})
    assert (query, body) == ({"limit": "7"}, NewQuotas(quotas=[]))
