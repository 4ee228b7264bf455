"""The environment's variables: defaults, readings, refusals, and that no secret shows."""

from pathlib import Path
from typing import get_type_hints

import pytest

from gateway.config.environment import (
    SETTINGS_VARIABLES,
    Environment,
    Mode,
    Reader,
    parse_duration_s,
    parse_listen,
    parse_origins,
    parse_per_byte,
    read_environment,
)
from gateway.config.secret import Secret
from gateway.config.source import Problems
from tests.support.tables import Tables

TABLES = Tables(__file__)


def read(mode: Mode = "serve", **environ: str) -> Environment:
    problems = Problems()
    environment = read_environment(environ, mode, problems)
    problems.refuse()
    return environment


def refusals(mode: Mode = "serve", **environ: str) -> list[str]:
    problems = Problems()
    read_environment(environ, mode, problems)
    return [str(problem) for problem in problems]


def test_the_defaults():
    environment = read()
    assert environment.listen_addr == "0.0.0.0:8080"
    assert environment.data_dir == Path(".metergate").absolute()
    assert environment.database_url is environment.redis_url is environment.admin_api_key is None
    assert environment.payment_provider is None
    assert environment.stripe_api_base == "https://api.stripe.com"
    assert environment.max_body_bytes == 1024**2
    assert environment.proxy_max_body_bytes == 32 * 1024**2
    assert environment.request_timeout_s == 30
    assert environment.jwt_expiry_hours == 24
    assert environment.refresh_token_expiry_days == 30
    assert environment.payment_grace_days == 10
    assert environment.cors_origins == ()
    assert environment.frontend_url is None
    assert environment.exporter_sources == ()
    assert environment.collect_interval_s == 60


def test_set_to_nothing_is_unset():
    assert read(**dict.fromkeys(SETTINGS_VARIABLES, "")) == read(**dict.fromkeys(SETTINGS_VARIABLES, " ")) == read()


def test_every_variable_is_read(monkeypatch):
    readers = []
    monkeypatch.setattr(Reader, "__init__", remember(readers))
    read()
    assert readers[0].seen == set(SETTINGS_VARIABLES)


def remember(readers: list[Reader]) -> object:
    original = Reader.__init__

    def init(self: Reader, *args: object) -> None:
        original(self, *args)
        readers.append(self)

    return init


@pytest.mark.parametrize("name", ["ADMIN_API_KEY", "SERVICE_API_KEY"])
def test_keys_that_could_be_guessed_are_refused(name):
    (refused,) = refusals(**{name: "swordfish-swordfish-123"})
    assert refused == f"environment: {name}: expected at least 24 characters; `openssl rand -hex 32` makes some"
    assert refusals(**{name: "swordfish-swordfish-1234"}) == []


def test_trusted_proxies_are_networks():
    assert read().trusted_proxies == ()
    networks = read(TRUSTED_PROXIES="10.0.0.0/8, 192.0.2.7,2001:db8::/32").trusted_proxies
    assert [str(each) for each in networks] == ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]
    (refused,) = refusals(TRUSTED_PROXIES="10.0.0.0/8,everybody")
    assert refused.startswith("environment: TRUSTED_PROXIES: expected networks such as 10.0.0.0/8")


def test_metrics_have_an_address_of_their_own():
    assert (read().metrics_addr, read("up").metrics_addr) == (None, "127.0.0.1:9090")
    assert read("up").metrics_addr_optional
    for mode in ("serve", "up"):
        named = read(mode, METRICS_ADDR="[::1]:9100")
        assert (named.metrics_addr, named.metrics_addr_optional) == ("[::1]:9100", False)
        assert read(mode, METRICS_ADDR="off").metrics_addr is None
    (refused,) = refusals(METRICS_ADDR="9090")
    assert refused.startswith("environment: METRICS_ADDR: expected an address and a port")


def test_up_listens_on_this_machine_alone():
    assert read("up").listen_addr == "127.0.0.1:8080"
    assert read("up", LISTEN_ADDR=":9000").listen_addr == "0.0.0.0:9000"
    assert read("up", LISTEN_ADDR="[::1]:9000").listen_addr == "[::1]:9000"
    assert read("command").listen_addr == "127.0.0.1:8080"  # as it works on the data folder of `up`
    assert read("serve").listen_addr == read("command", DATABASE_URL="postgresql://db/m").listen_addr == "0.0.0.0:8080"


@TABLES.each("addresses")
def test_addresses(text, address):
    assert parse_listen(text) == address


def test_the_gateways_own_address_is_where_pages_stand():
    assert read(FRONTEND_URL="https://pay.example.com/").frontend_url == "https://pay.example.com"


@TABLES.each("durations")
def test_durations(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "scaled"),
    [
        ("1", 10**18),
        ("0.00000000005", 50_000_000),
        ("0." + "0" * 17 + "1", 1),
        ("1e-9", None),
        ("-1", None),
        ("9" * 10, None),
    ],
)
def test_a_price_per_byte_is_exact(text, scaled):
    assert parse_per_byte(text) == scaled


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("*", ("*",)),
        ("https://a.example, http://b:81", ("https://a.example", "http://b:81")),
        ("https://a.example/", None),
        ("a.example", None),
        ("*, https://a", None),
    ],
)
def test_origins(text, origins):
    assert parse_origins(text) == origins


@TABLES.each("wrong_values_are_refused_by_name")
def test_wrong_values_are_refused_by_name(name, text):
    assert any(problem.startswith(f"environment: {name}: ") for problem in refusals(**{name: text}))


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({"AUTH_BASE_URL": "https://issuer"}, "AUTH_AUDIENCE"),
        ({"AUTH_COOKIE_SECRET": "s" * 32}, "AUTH_AUDIENCE"),
        ({"SMTP_HOST": "mail"}, "SMTP_FROM"),
        ({"LAGO_API_URL": "https://lago"}, "LAGO_API_KEY"),
        ({"PAYMENT_PROVIDER": "stripe", "STRIPE_WEBHOOK_SECRET": "w"}, "STRIPE_API_KEY"),
        ({"STRIPE_API_KEY": "sk_test_1"}, "STRIPE_WEBHOOK_SECRET"),
    ],
)
def test_what_goes_together(environ, missing):
    found = refusals(**environ)
    assert len(found) == 1
    assert found[0].startswith(f"environment: {missing}: expected a value")


def test_what_must_differ():
    secret, url = "s" * 32, "https://issuer"
    for environ, name in (
        ({"AUTH_COOKIE_SECRET": secret, "JWT_SECRET": secret, "AUTH_AUDIENCE": "here"}, "AUTH_COOKIE_SECRET"),
        ({"AUTH_BASE_URL": url, "AUTH_AUDIENCE": "a", "AUTH_INTERNAL_AUDIENCE": "a"}, "AUTH_INTERNAL_AUDIENCE"),
        ({"AUTH_BASE_URL": url, "AUTH_AUDIENCE": "metergate"}, "AUTH_AUDIENCE"),
        ({"JWT_SECRET": "s" * 31}, "JWT_SECRET"),
    ):
        (found,) = refusals(**environ)
        assert found.startswith(f"environment: {name}: expected"), found
        assert secret not in found


def test_stripe_by_either_name_of_its_key():
    for name in ("STRIPE_API_KEY", "STRIPE_SECRET_KEY"):
        environment = read(**{name: "rk_live_1", "STRIPE_WEBHOOK_SECRET": "whsec"})
        assert environment.payment_provider == "stripe"
        assert environment.stripe_api_key == Secret("rk_live_1")
    assert read(STRIPE_API_KEY="k", STRIPE_SECRET_KEY="k", PAYMENT_PROVIDER="local").payment_provider == "local"
    assert refusals(STRIPE_API_KEY="k", STRIPE_SECRET_KEY="other", PAYMENT_PROVIDER="local") == [
        "environment: STRIPE_SECRET_KEY: differs from STRIPE_API_KEY; set one of them"
    ]
    (wrong,) = refusals(STRIPE_API_KEY="pk_test_1", STRIPE_WEBHOOK_SECRET="w")  # what pages of browsers show
    assert "sk_test_" in wrong
    assert "pk_test" not in wrong
    assert read("command", STRIPE_API_KEY="sk_test_1").payment_provider == "stripe"  # a command serves no webhook


def test_no_secret_shows():
    hidden = {name: "hidden" for name, variable in SETTINGS_VARIABLES.items() if variable.secret}
    hidden |= {"DATABASE_URL": "mysql://u:hidden@h", "REDIS_URL": "hidden://h", "NOTIFICATION_WEBHOOK": "hidden"}
    assert not any("hidden" in problem for problem in refusals(**hidden))
    right = {"DATABASE_URL": "postgresql://u:hidden@h/d", "REDIS_URL": "redis://:hidden@h"}
    right |= {"EXPORTER_SOURCES_JSON": '[{"source_id": "a", "base_url": "https://a", "token": "hidden"}]'}
    right |= {"NOTIFICATION_WEBHOOK": "https://h/hidden", "DATABASE_REPLICA_URL": "postgresql://u:hidden@h/d"}
    right |= {"SECRETS_KEY": "hidden" * 8, "SECRETS_KEY_BEFORE": "hidden" * 9}
    right |= {"ADMIN_API_KEY": "hidden" * 4, "SERVICE_API_KEY": "hidden" * 4, "JWT_SECRET": "hidden" * 6}
    right |= {
        "STRIPE_API_KEY": "sk_test_hidden",
        "AUTH_COOKIE_SECRET": "hidden" * 7,
        "AUTH_AUDIENCE": "here",
        "SMTP_USER": "mailer",
    }
    assert "hidden" not in repr(read(**(hidden | right | {"STRIPE_SECRET_KEY": ""})))


def test_secrets_are_of_the_type_that_hides_them():
    named = get_type_hints(Environment)
    for name, variable in SETTINGS_VARIABLES.items():
        if variable.secret and name.lower() in named:
            assert named[name.lower()] == Secret | None, name


def test_sources_of_collected_traffic():
    text = """[{"source_id": "a", "base_url": "https://a/", "token": "t", "region": "jp", "timeout_seconds": 5},
               {"source_id": "b", "base_url": "http://b", "expected_node_id": "n", "expected_env": "prod",
                "enabled": false}]"""
    one, other = read(
        EXPORTER_SOURCES_JSON=text, INTERNAL_SERVICE_TOKEN="it", DEFAULT_REGION="eu", EXPORTER_BASE_URL="https://x"
    ).exporter_sources
    assert (one.base_url, one.token, one.region, one.enabled, one.timeout_s) == (
        "https://a",
        Secret("t"),
        "jp",
        True,
        5,
    )
    assert (other.token, other.region, other.enabled, other.timeout_s) == (Secret("it"), "eu", False, 15)
    assert (other.expected_node_id, other.expected_env) == ("n", "prod")
    (single,) = read(EXPORTER_BASE_URL="https://x/", INTERNAL_SERVICE_TOKEN="it").exporter_sources
    assert (single.source_id, single.base_url, single.token) == ("default", "https://x", Secret("it"))


@pytest.mark.parametrize(
    "item",
    [
        "5",
        "{}",
        '{"source_id": "", "base_url": "https://a"}',
        '{"source_id": "a", "base_url": "a"}',
        '{"source_id": 5, "base_url": "https://a"}',
        '{"source_id": "a", "base_url": "https://a", "tokn": "x"}',
        '{"source_id": "a", "base_url": "https://a", "enabled": "yes"}',
        '{"source_id": "a", "base_url": "https://a", "timeout_seconds": 0}',
        '{"source_id": "good", "base_url": "https://a"}',
    ],
)
def test_wrong_sources_are_refused_by_place(item):
    good = '{"source_id": "good", "base_url": "https://a"}'
    (problem,) = refusals(EXPORTER_SOURCES_JSON=f"[{good}, {item}]")
    assert problem.startswith("environment: EXPORTER_SOURCES_JSON[1]")
