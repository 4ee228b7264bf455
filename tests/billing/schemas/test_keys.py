"""A key's rules are declared once, and what derives from the declaration has all of them."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from msgspec import structs
from typer.main import get_group

import billing as package
from billing.cli.operator import operator_app
from billing.principals import Principal
from billing.schemas.keys import (
    RULES,
    KeyRefused,
    KeyRow,
    KeyRules,
    KeyShape,
    NewKey,
    RulesBody,
    given_rules,
    rules_shown,
)

ROOT = Path(package.__file__).parent
# The column, the rule, the principal, and what acts on it. The fifth is docs/api.md.
MOST_FILES = 4
# Where `max_parallel_requests` of a plan stands.
OF_PLANS = {
    "plans.py",
    "web/operator_money.py",
    "web/operator_making.py",
    "holds/decision.py",
    "keys/keys.py",
    "schemas/payments.py",
    "cli/accounts.py",
}


def test_body_row_and_answer_have_every_rule():
    assert tuple(each.name for each in structs.fields(RulesBody)) == tuple(RULES)
    assert set(RULES) <= {each.name for each in structs.fields(KeyShape)}
    assert set(RULES) < {each.name for each in fields(KeyRow)}


async def test_every_rule_has_a_column(billing):
    rows = await billing.database.rows(
        "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'api_keys'"
    )
    assert set(RULES) < {row["column_name"] for row in rows}


def test_every_rule_has_an_option():
    def connect(output):
        raise AssertionError("nothing is called")

    key = get_group(operator_app(connect)).get_command(None, "key")
    for command in ("create", "update"):
        flags = {flag for each in key.commands[command].params for flag in each.opts}
        assert {rule.option.flag for rule in RULES.values()} <= flags


def test_a_rule_is_spelled_in_few_files():
    paths = (path for path in ROOT.rglob("*") if path.suffix in (".py", ".sql", ".lua"))
    spelled = {
        path.relative_to(ROOT).as_posix() for path in paths if "max_parallel_requests" in path.read_text("utf-8")
    }
    assert len(spelled - OF_PLANS) <= MOST_FILES, spelled
    assert "max_parallel_requests" in {each.name for each in fields(Principal)}


def test_what_a_body_leaves_unset_is_not_said():
    new = NewKey(account_id="acc_1", name="laptop", max_parallel_requests=3, models=None)
    assert given_rules(new) == {"max_parallel_requests": 3, "models": None}
    everything = RulesBody(**dict.fromkeys(RULES))
    assert KeyRules(**given_rules(everything)) == KeyRules()


def test_the_default_rules_as_json():
    assert rules_shown(KeyRules()) == {
        "scopes": ("llm:proxy", "billing:read"),
        "models": None,
        "quotas": [],
        "max_parallel_requests": None,
        "default_tool_calls": None,
        "expires_at": None,
        "tags": {},
    }


def test_a_rule_that_there_is_not_is_no_argument():
    assert list(inspect.signature(KeyRules).parameters) == list(RULES)
    with pytest.raises(TypeError):
        KeyRules(colour="red")
    with pytest.raises(KeyRefused) as refused:
        KeyRules(max_parallel_requests=0)
    assert refused.value.field == "max_parallel_requests"
