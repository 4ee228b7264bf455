"""No setting is without an effect."""

import re
from dataclasses import fields
from pathlib import Path

import billing
import gateway
from gateway.commands.doctor import check_settings
from gateway.config.environment import SETTINGS_VARIABLES, Environment
from gateway.config.settings import warnings
from tests.gateway.config.support import MAIN, PLANS, load
from tests.test_env_example import assignments


def test_every_variable_is_read():
    folder = Path(gateway.__file__).parent
    paths = [*folder.rglob("*.py"), *Path(billing.__file__).parent.rglob("*.py")]
    only_looking = (folder / "commands" / "doctor.py",)
    reading = [path for path in paths if path.parent != folder / "config" and path not in only_looking]
    code = "\n".join(path.read_text("utf-8") for path in reading)
    unread = {field.name for field in fields(Environment) if not re.search(rf"\.{field.name}\b", code)}
    unread.remove("config_dir")  # gateway.config.settings reads it, to find the files, and prices of plans
    unread -= {f"stripe_price_{plan}" for plan in ("starter", "professional", "enterprise")}
    unread -= {"default_region", "internal_service_token"}  # they complete the sources of traffic
    unread.remove("payment_grace_days")  # in seconds, by a property of the settings
    unread.remove("development")  # applications read it, by billing.client.middleware
    assert unread == set()


def test_no_variable_is_without_effect(tmp_path):
    secret = "s" * 40
    environ = {
        "LAGO_API_URL": "http://l",
        "DEFAULT_REGION": "eu",
        "COLLECT_INTERVAL": "1m",
        "LAGO_API_KEY": secret,
        "IMAGE": "i",
    }
    settings = load(tmp_path, environ)
    assert warnings(settings, 2e9) == ()
    assert [check.message for check in check_settings(settings, 2e9) if check.status == "warn"] == []


def test_the_example_file_as_it_is_warns_of_no_variable(tmp_path):
    settings = {name: text for name, text in assignments().items() if name in SETTINGS_VARIABLES}
    assert [warning for warning in warnings(load(tmp_path, settings), 2e9) if warning.startswith("environment")] == []


def test_every_key_of_the_files_has_an_effect(tmp_path):
    main = MAIN.replace("model: gpt-4o-mini", "model: gpt-4o-mini, fallbacks: [demo]")
    plans = PLANS.replace('"99"', '"99", included_credit_usd: "5", users: 3, stripe_price: price_1')
    assert warnings(load(tmp_path, main=main, plans=plans), 2e9) == ()
