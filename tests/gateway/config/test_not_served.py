"""Settings without an effect, and only these, are warnings that name them."""

import re
from dataclasses import fields
from pathlib import Path

import billing
import gateway
from gateway.commands.doctor import check_settings
from gateway.config.environment import NOT_SERVED, SETTINGS_VARIABLES, Environment
from gateway.config.settings import warnings
from tests.gateway.config.support import MAIN, PLANS, load
from tests.support.env_example import DOCUMENTATION, assignments

FIELDS = {
    "STRIPE_SECRET_KEY": "stripe_api_key",
    "EXPORTER_SOURCES_JSON": "exporter_sources",
    "EXPORTER_BASE_URL": "exporter_sources",
    "COLLECT_INTERVAL": "collect_interval_s",
    "PRICE_PER_BYTE": "price_per_byte_scaled",
    "INITIAL_BALANCE": "initial_balance_nano",
}
"""Where a variable and its setting have different names."""


def test_the_variables_named_are_those_that_nothing_reads() -> None:
    folder = Path(gateway.__file__).parent
    paths = [*folder.rglob("*.py"), *Path(billing.__file__).parent.rglob("*.py")]
    only_looking = (folder / "commands" / "checks.py",)
    reading = [path for path in paths if path.parent != folder / "config" and path not in only_looking]
    code = "\n".join(path.read_text("utf-8") for path in reading)
    unread = {field.name for field in fields(Environment) if not re.search(rf"\.{field.name}\b", code)}
    unread.remove("config_dir")  # gateway.config.settings reads it, to find the files, and prices of plans
    unread -= {f"stripe_price_{plan}" for plan in ("starter", "professional", "enterprise")}
    unread -= {"default_region", "internal_service_token"}  # they complete the sources of traffic
    unread.remove("development")  # applications read it, by billing.client.middleware
    assert unread == {FIELDS.get(name, name.lower()) for name in NOT_SERVED}


def test_no_variable_is_without_effect(tmp_path: Path) -> None:
    secret = "s" * 40
    environ = {
        "LAGO_API_URL": "http://l",
        "DEFAULT_REGION": "eu",
        "COLLECT_INTERVAL": "1m",
        "LAGO_API_KEY": secret,
        "IMAGE": "i",
    }
    settings = load(tmp_path, environ)
    assert NOT_SERVED == ()
    assert warnings(settings, 2e9) == ()
    assert [check.message for check in check_settings(settings, 2e9) if check.status == "warn"] == []


def test_the_example_file_as_it_is_warns_of_no_variable(tmp_path: Path) -> None:
    settings = {name: text for name, text in assignments().items() if name in SETTINGS_VARIABLES}
    assert [warning for warning in warnings(load(tmp_path, settings), 2e9) if warning.startswith("environment")] == []


def test_every_key_of_the_files_has_an_effect(tmp_path: Path) -> None:
    main = MAIN.replace("model: gpt-4o-mini", "model: gpt-4o-mini, fallbacks: [demo]")
    plans = PLANS.replace('"99"', '"99", included_credit_usd: "5", users: 3, stripe_price: price_1')
    assert warnings(load(tmp_path, main=main, plans=plans), 2e9) == ()


def test_the_documentation_lists_them() -> None:
    section = DOCUMENTATION.partition("### Not served yet")[2].partition("## ")[0]
    assert set(re.findall(r"`([A-Z_]+)`", section)) == set(NOT_SERVED)
