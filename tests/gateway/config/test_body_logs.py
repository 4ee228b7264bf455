"""The `body_logs` of metergate.yaml: what it may be, and what is told of what is wrong."""

import re
import shutil
import sys

import pytest

from billing.money import MILLION
from gateway.config.body_logs import BodyLogConfig, Redact
from gateway.config.settings import SHIPPED_FOLDER, ConfigError, load_settings
from gateway.config.source import keys_of
from tests.support.commands import CHECKOUT

KEY = "k" * 32
LEAST = "{to: /srv/bodies, encryption_key: '${BODY_KEY}', accounts: all}"


@pytest.fixture
def read(tmp_path):
    def load(section, **environ):
        for name in ("metergate.yaml", "prices.yaml", "plans.yaml"):
            shutil.copy(SHIPPED_FOLDER / name, tmp_path)
        with (tmp_path / "metergate.yaml").open("a") as file:
            file.write(f"\nbody_logs: {section}\n")
        environ = {"METERGATE_CONFIG": str(tmp_path), "BODY_KEY": KEY, **environ}
        return load_settings(environ, mode="command", with_prices=False).body_logs

    return load


def test_bodies_are_not_logged_by_default():
    assert load_settings({}, mode="command", with_prices=False).body_logs is None


def test_the_least_and_all(read):
    found = read(LEAST)
    assert found == BodyLogConfig(to="/srv/bodies", encryption_key=found.encryption_key, accounts=frozenset())
    assert found.encryption_key.reveal() == KEY
    assert KEY not in repr(found)
    found = read(
        "{to: s3://b/p, encryption_key: '${BODY_KEY}', encryption_keys_before: ['${OLD}'], accounts: [acc_1],"
        " except: [acc_2, key_3], sample: '0.01', client_opt_out: false, keep_days: 7, account_share: '0.25',"
        " redact: [mail_addresses, {pattern: 'EMP-[0-9]+'}, {field: password}, {field: messages.*.name}]}",
        OLD="o" * 32,
    )
    assert [each.reveal() for each in found.encryption_keys_before] == ["o" * 32]
    assert (found.accounts, found.excepted) == (frozenset({"acc_1"}), frozenset({"acc_2", "key_3"}))
    assert (found.sample, found.account_share, found.keep_days, found.client_opt_out) == (10_000, 250_000, 7, False)
    assert found.redact == Redact(("mail_addresses",), ("EMP-[0-9]+",), (("password",), ("messages", "*", "name")))
    assert [found.covers(each) for each in ("acc_1", "acc_2", "acc_4")] == [True, False, False]


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("{}", "body_logs.to: missing"),
        ("{to: bodies, encryption_key: '${BODY_KEY}', accounts: all}", "expected a folder such as"),
        ("{to: 's3://', encryption_key: '${BODY_KEY}', accounts: all}", "or s3://BUCKET/PREFIX"),
        ("{to: /t, encryption_key: '${BODY_KEY}'}", "body_logs.accounts: missing"),
        ("{to: /t, encryption_key: '${BODY_KEY}', accounts: some}", "expected one of all"),
        ("{to: /t, encryption_key: '${BODY_KEY}', accounts: []}", 'expected "all", or a list'),
        ("{to: /t, encryption_key: '${BODY_KEY}', accounts: [me]}", "an account's id"),
        ("{to: /t, encryption_key: tooshortakey, accounts: all}", "at least 32 bytes"),
        ("{to: /t, encryption_key: '${NONE}', accounts: all}", "the variable NONE is not set"),
        (LEAST[:-1] + ", sample: 0.5}", "put it in quotes"),
        (LEAST[:-1] + ", sample: '2'}", "expected a decimal string"),
        (LEAST[:-1] + ", keep_days: 0}", "a whole number from 1 to 3650"),
        (LEAST[:-1] + ", redact: [phones]}", "expected one of mail_addresses"),
        (LEAST[:-1] + ", redact: [{pattern: '('}]}", "not a pattern of RE2: missing )"),
        (LEAST[:-1] + ", redact: [{pattern: '(a)\\1'}]}", "not a pattern of RE2"),
        (LEAST[:-1] + ", redact: [{pattern: 'a*'}]}", "found in every text"),
        (LEAST[:-1] + ", redact: [{pattern: '\\Qa.b'}]}", "without its \\E"),
        (LEAST[:-1] + ", redact: [{pattern: '\\Qa\\Eb\\Qc'}]}", "without its \\E"),
        (LEAST[:-1] + ", redact: [{pattern: '\\\\\\Qa\\\\E|\\Q'}]}", "without its \\E"),
        (LEAST[:-1] + ", redact: [{pattern: a, field: b}]}", "with `pattern` or with `field`"),
        (LEAST[:-1] + ", redact: [{field: a..b}]}", "expected a field"),
        (LEAST[:-1] + ", folder: x}", "unknown key"),
    ],
)
def test_what_is_wrong_is_told(read, section, told):
    with pytest.raises(ConfigError) as error:
        read(section)
    assert told in str(error.value)
    assert "tooshortakey" not in str(error.value)


@pytest.mark.parametrize("pattern", [r"\Qa.b\E", r"\\Qa", r"\Q\Q\Ea\d", r"\\\Qa.b\\E"])
def test_patterns_that_quote_and_end_it(read, pattern):
    assert read(f"{LEAST[:-1]}, redact: [{{pattern: '{pattern}'}}]}}").redact.patterns == (pattern,)


def test_the_library_is_asked_for(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(ConfigError, match=r"install metergate\[body-logs\]"):
        read(LEAST)


def test_the_documentation_has_every_key():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (CHECKOUT / "docs" / "body-logs.md").read_text(), re.MULTILINE))
    keys = keys_of(BodyLogConfig)
    assert list(rows) == list(keys)
    for name, key in keys.items():
        help_text = next(meta.description for meta in key.kind.metas if meta.description)
        assert help_text in rows[name], name
        default = key.field.default
        if name in ("sample", "account_share"):
            assert rows[name].startswith(f'`"{default / MILLION:g}"`'), name
        elif isinstance(default, int | float) and not isinstance(default, bool):
            assert rows[name].startswith(f"`{f'{default:.10g}'}`"), name
