"""Credit in `payments` of metergate.yaml."""

import pytest

from gateway.config.settings import ConfigError
from gateway.runtime.payments import payment_rules
from tests.gateway.config.support import MAIN, load


def test_purchased_credit_lasts_for_ever_unless_it_is_told(tmp_path):
    payments = load(tmp_path, {}).payments
    assert (payments.credit_expires_days, payments.low_balance_nano, payments.auto_recharge_declines) == (
        None,
        5_000_000_000,
        3,
    )
    text = "payments: {credit_expires_days: 365, low_balance_usd: '0', auto_recharge_declines: 4, open_pages: 7}\n"
    settings = load(tmp_path, {}, main=f"{MAIN}{text}")
    assert settings.payments.low_balance_nano == 0
    rules = payment_rules(settings)
    assert (rules.credit_days, rules.declines, rules.flows.open_pages) == (365, 4, 7)


@pytest.mark.parametrize(
    "text", ["credit_expires_days: 0", "low_balance_usd: '-1'", "low_balance_usd: 5", "auto_recharge_declines: 11"]
)
def test_what_can_not_be(tmp_path, text):
    with pytest.raises(ConfigError, match=text.partition(":")[0]):
        load(tmp_path, {}, main=f"{MAIN}payments: {{{text}}}\n")
