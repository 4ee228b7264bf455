"""docs/providers.md says of each endpoint and field what the readers make of it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.dialects.body import StructureBounds
from gateway.dialects.registry import make_dialects
from tests.gateway.dialects.answers import Answer, chat
from tests.gateway.dialects.readers import READERS

PAGE = Path(__file__).parents[3].joinpath("docs", "providers.md").read_text("utf-8")
# Beginnings of paths that lead to an endpoint by another name.
ALIASES = ("/openai/", "/azure/", "/v1/models/")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    table = PAGE.split(f"\n## {heading}\n")[1].split("|---", 1)[1].split("\n\n", 1)[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]


def test_the_page_lists_every_endpoint_that_is_charged():
    made = {
        f"{endpoint.method} {endpoint.path}"
        for dialect in make_dialects(StructureBounds()).all
        for endpoint in dialect.endpoints
        if not endpoint.free and not endpoint.path.startswith(ALIASES)
    }
    assert {cells[0].strip("`") for cells in rows("Endpoints")} == made


FIELDS = [
    (field, re.split(r"[ ,;]", cells[1])[0])
    for cells in rows("OpenAI's chats, completions, embeddings, moderations")
    for field in re.findall(r"`([\w.]+)`", cells[0])
]


@pytest.mark.parametrize(("field", "price_class"), FIELDS)
def test_a_field_becomes_the_class_that_the_page_says(field, price_class):
    usage = chat(100, 50)
    *outer, name = field.split(".")
    into = usage.setdefault(outer[0], {}) if outer else usage
    into[name] = into.get(name, 7)
    reported = READERS["chat"](Answer("", "", "", "chat", usage).text)
    assert reported.usage.by_class()[price_class] == (7 if into[name] == 7 else into[name])
    assert reported.anomalies == ()


def test_the_page_names_enough_fields():
    assert len(FIELDS) >= 15


APIS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


@pytest.mark.parametrize("heading", APIS)
def test_the_fields_of_each_api_become_what_the_page_says(heading):
    api, cases = APIS[heading]["api"], APIS[heading]["fields"]
    documented = {name: cells[1] for cells in rows(heading) for name in re.findall(r"`([\w.]+(?:\[\])?)`", cells[0])}
    assert documented.keys() == cases.keys()
    for field, (usage, more, wanted) in cases.items():
        reported = READERS[api](Answer("", "", "", api, usage, more).text)
        assert reported is not None, field
        conditions = {name: getattr(reported, name) for name in ("service_tier", "processing", "speed", "region")}
        found = {**reported.total.by_class(), **conditions}
        assert {name: found.get(name) for name in wanted} == wanted, field
        named = [name for name in wanted if name not in conditions and field != "iterations[]"]
        assert not named or re.search(rf"\b{re.escape(named[0])}\b", documented[field]), (field, documented[field])
