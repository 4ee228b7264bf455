"""plans.yaml: plans as they are written, and what is refused with its line."""

import pytest

from billing.plans import Plan
from billing.quotas import Metric, Quota, Window
from gateway.config.settings import warnings
from tests.gateway.config.support import MAIN, PLANS, load, problems
from tests.support.shipped import shipped_settings
from tests.support.tables import Tables

TABLES = Tables(__file__)


def test_a_plan_needs_a_name_and_a_price_alone(tmp_path):
    settings = load(tmp_path, plans='free: {name: Free, price_usd: "0"}\n')
    assert settings.plans == {"free": Plan("free", "Free", 0)}


def test_a_plan_with_everything(tmp_path):
    text = """\
free:
  name: Free
  price_usd: "0"
pro:
  name: Pro
  price_usd: "99.50"
  included_credit_usd: "20"
  included_credit: rolls_over
  features: {reports: 50, api_access: true}
  models: [demo, gpt-4o*, local/anything]
  users: 5
  max_parallel_requests: 8
  admission_queue_s: 3
  default_tool_calls: 4
  markup_percent: "2.5"
  markups: {demo: "0", gpt-4o*: "12.5"}
  stripe_price: "${STRIPE_PRICE_STARTER:-}"
  upgrade_to: free
  quotas:
    - {window: day, metric: tokens, limit: 200000}
    - {window: month, metric: cost, limit: "12.50", model: gpt-4o*, feature: llm}
"""
    plan = load(tmp_path, {"STRIPE_PRICE_STARTER": "price_1"}, plans=text).plans["pro"]
    assert plan == Plan(
        id="pro",
        name="Pro",
        price_nano=99_500_000_000,
        quotas=(
            Quota(Window.day, Metric.tokens, 200_000),
            Quota(Window.month, Metric.cost, 12_500_000_000, "gpt-4o*"),
        ),
        models=("demo", "gpt-4o*", "local/anything"),
        max_parallel_requests=8,
        admission_queue_s=3,
        default_tool_calls=4,
        included_credit_nano=20_000_000_000,
        users=5,
        markup_scaled=2_500_000_000,
        markups=(("demo", 0), ("gpt-4o*", 12_500_000_000)),
        stripe_price="price_1",
        upgrade_to="free",
        credit_rolls_over=True,
        features=(("api_access", True), ("reports", 50)),
    )
    assert load(tmp_path, plans=text).plans["pro"].stripe_price is None
    named = text.replace("pro:", "starter:").replace('  stripe_price: "${STRIPE_PRICE_STARTER:-}"\n', "")
    assert load(tmp_path, {"STRIPE_PRICE_STARTER": "price_1"}, plans=named).plans["starter"].stripe_price == "price_1"


@pytest.mark.parametrize("text", ["-1", "601", "0.5", "soon"])
def test_a_wait_is_a_bounded_number_of_seconds(tmp_path, text):
    (found,) = problems(tmp_path, plans=f'free: {{name: Free, price_usd: "0", admission_queue_s: {text}}}\n')
    assert found.startswith("plans.yaml:1: free.admission_queue_s: expected a ")


def test_the_shipped_plans_wait():
    plans = shipped_settings("").plans
    assert {plan.admission_queue_s for plan in plans.values()} == {5}


def test_a_file_may_say_its_version(tmp_path):
    plan = 'free: {name: Free, price_usd: "0"}\n'
    assert load(tmp_path, plans=plan).plans_version == 0
    settings = load(tmp_path, plans=f"version: 7\n{plan}")
    assert (settings.plans_version, list(settings.plans)) == (7, ["free"])
    both = load(tmp_path, plans=plan + 'version: {name: A plan of that name, price_usd: "1"}\n')
    assert (both.plans_version, list(both.plans)) == (0, ["free", "version"])


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "[1]", "10000000000"])
def test_a_version_is_a_whole_number(tmp_path, text):
    (found,) = problems(tmp_path, plans=f'version: {text}\nfree: {{name: Free, price_usd: "0"}}\n')
    assert "version" in str(found)


@pytest.mark.parametrize(("models", "allowed"), [('["*"]', None), ('[demo, "*"]', None), ("[]", ()), ("null", None)])
def test_which_models_a_plan_allows(tmp_path, models, allowed):
    text = f'free: {{name: Free, price_usd: "0", models: {models}}}\n'
    assert load(tmp_path, plans=text).plans["free"].models == allowed


@TABLES.each("wrong_plans_are_refused")
def test_wrong_plans_are_refused(tmp_path, more, problem):
    (found,) = problems(tmp_path, plans=f"free: {{name: Free, {more}}}\n")
    assert found.startswith(f"plans.yaml:1: {problem}")


def test_a_plan_that_leads_to_itself_is_not_offered_itself(tmp_path):
    (found,) = problems(tmp_path, plans='free: {name: Free, price_usd: "0", upgrade_to: free}\n')
    assert found.endswith('got "free"')


def test_a_plans_id_is_plain(tmp_path):
    (found,) = problems(tmp_path, plans=PLANS + 'Pro Plus: {name: Pro, price_usd: "1"}\n')
    assert found == "plans.yaml:3: Pro Plus: a plan's id is lower-case letters, digits, '_' and '-'"


def test_the_plan_of_new_accounts_is_a_plan(tmp_path):
    (found,) = problems(tmp_path, plans='pro: {name: Pro, price_usd: "1"}\n')
    assert found == 'metergate.yaml:1: defaults.default_plan: expected a plan of plans.yaml, got "free"; known are pro'


def test_a_plan_that_stripe_cannot_sell_is_a_warning(tmp_path):
    environ = {"STRIPE_API_KEY": "sk_test_1", "STRIPE_WEBHOOK_SECRET": "wh"}
    assert "plan pro: no stripe_price; nobody can subscribe to it" in warnings(load(tmp_path, environ), 2e9)
    assert warnings(load(tmp_path), 2e9) == ()


def test_a_plans_own_markups_go_by_the_name_then_by_the_longest_prefix():
    plan = Plan("pro", "Pro", 0, markup_scaled=1, markups=(("gpt-*", 2), ("gpt-4o*", 3), ("gpt-4o", 0)))
    assert [plan.markup_of(name) for name in ("gpt-4o", "gpt-4o-mini", "gpt-5", "demo")] == [0, 3, 2, 1]
    with pytest.raises(ValueError, match="markup"):
        Plan("pro", "Pro", 0, markups=(("demo", -1),))


def test_a_markup_that_a_models_own_replaces_is_a_warning(tmp_path):
    main = MAIN.replace("demo: {", 'demo: {markup_percent: "5", ')
    plans = 'free: {name: Free, price_usd: "0", markups: {demo: "10", "de*": "11"}}\n'
    (found,) = warnings(load(tmp_path, main=main, plans=plans), 2e9)
    assert found == "plan free: the own markup_percent of model demo goes before its markup here"


@pytest.mark.parametrize("text", ['"*"', '["*"]', '[demo, "*"]'])
def test_a_plan_of_every_model(tmp_path, text):
    plans = load(tmp_path, plans=f'free: {{name: Free, price_usd: "0", models: {text}}}\n').plans
    assert plans["free"].models is None


@pytest.mark.parametrize("text", ["demo", '"**"', "[nodemo]"])
def test_models_that_a_plan_cannot_have(tmp_path, text):
    (found,) = problems(tmp_path, plans=f'free: {{name: Free, price_usd: "0", models: {text}}}\n')
    assert "plans.yaml:1: free.models" in found
