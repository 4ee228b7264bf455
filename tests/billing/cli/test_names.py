"""Commands take names for ids, where one thing alone is called so."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from billing.cli.names import of_all, of_own_keys, with_names, with_own_names
from billing.cli.output import CommandFailed, Shown
from billing.cli.tables import Table
from billing.client.calls import BillingCalls

ID = "acc_01JXSZ4G00000000000000TEST"


@dataclass
class Calls:
    """A gateway that finds these, by id and name."""

    found: list[tuple[str, str]]

    async def search(self, *, q: str, kind: str) -> Any:
        return SimpleNamespace(data=[SimpleNamespace(id=found, name=name) for found, name in self.found])

    async def own_keys(self, *, limit: int) -> Any:
        return await self.search(q="", kind="key")


def client(*found: tuple[str, str]) -> BillingCalls:
    return cast("BillingCalls", Calls(list(found)))


async def test_a_name_becomes_the_id_of_what_alone_is_called_so():
    given = {"account_id": "acme", "limit": 3, "user": None}
    assert await of_all(client(("acc_1", "Acme")), given) == {**given, "account_id": "acc_1"}
    whole = client(("acc_1", "Acme"), ("acc_2", "Acme West"))
    assert (await of_all(whole, given))["account_id"] == "acc_1"
    assert await of_all(client(), {"account_id": ID}) == {"account_id": ID}  # an id is what it is
    with pytest.raises(CommandFailed, match="No account is named 'acme'"):
        await of_all(client(), given)
    with pytest.raises(CommandFailed, match=r"Several .* Acme \(acc_1\), Acme \(acc_2\)"):
        await of_all(client(("acc_1", "Acme"), ("acc_2", "Acme")), given)


KEY, PERSON = "key_01M89GBJY1YHV67ZEJQ0RTJ5XF", "usr_01M89GBJXHK1X4ECGGXESEWY9B"


async def test_ids_in_tables_have_names():
    asked = []

    class Named(Calls):
        async def names(self, *, ids: str) -> Any:
            asked.append(ids)
            return SimpleNamespace(names={KEY: "laptop", PERSON: "ada@example.com"})

    table = Table(("actor", "subject", "message"), [(f"user:{PERSON}", KEY, f"{KEY} was made"), ("admin", ID, "-")])
    facts = Table((), [("account", KEY)])
    own = Table(("id", "name"), [(KEY, "laptop")])
    shown = await with_names(cast("BillingCalls", Named([])), Shown({}, (table, facts, own, KEY)))
    first, *rest = shown.parts
    assert isinstance(first, Table)
    assert first.rows == [
        (f"ada@example.com ({PERSON[:18]})", f"laptop ({KEY[:18]})", f"{KEY} was made"),
        ("admin", ID, "-"),
    ]
    assert rest == [facts, own, KEY]
    assert asked == [",".join(sorted((ID, KEY, PERSON)))]
    await with_names(cast("BillingCalls", Named([])), Shown({}, (facts,)))
    assert len(asked) == 1


async def test_people_see_names_of_their_keys():
    shown = await with_own_names(client((KEY, "laptop")), Shown({}, (Table(("key",), [(KEY,), (ID,)]),)))
    assert shown.parts == (Table(("key",), [(f"laptop ({KEY[:18]})",), (ID,)]),)


async def test_people_name_their_own_keys():
    keys = client(("key_1", "laptop"), ("key_2", "server"))
    for typed in ("LAP", "key_1"):
        assert await of_own_keys(keys, {"key_id": typed, "account_id": "x"}) == {"key_id": "key_1", "account_id": "x"}
    with pytest.raises(CommandFailed, match="No key"):
        await of_own_keys(keys, {"key_id": "phone"})
