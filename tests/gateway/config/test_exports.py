"""The `exports` of metergate.yaml."""

from pathlib import Path

from gateway.config.exports import MeterConfig
from gateway.config.settings import warnings
from gateway.runtime.exports import exports_of
from tests.gateway.config.support import MAIN, load, problems
from tests.support.tables import Tables

TABLES = Tables(__file__)

ALL = """\
exports:
  - {kind: lago, url: "https://lago.example.com/", api_key: "${KEY}", plan_code: pro,
     meters: [{code: usage}, {code: tokens, value: total_tokens, feature: llm}]}
  - {kind: stripe_meters, meters: [{event_name: tokens, value: total_tokens}]}
  - {kind: cloudevents, name: to-meter, url: "https://meter.example.com/api/v1/events", token: "${UNSET}"}
  - {kind: cloudevents, url: "https://meter.example.com/api/v1/events", from: beginning, batch: 7}
  - {kind: folder, path: /usage, format: parquet}
"""


def test_each_kind_says_its_own(tmp_path):
    settings = load(tmp_path, {"KEY": "secret"}, main=MAIN + ALL)
    lago, stripe, cloud, folder = settings.exports
    assert (lago.name, lago.url, lago.plan_code) == ("lago", "https://lago.example.com", "pro")
    assert lago.key.reveal() == "secret"
    assert "secret" not in repr(settings.exports)
    assert lago.meters == (MeterConfig("usage", None, None), MeterConfig("tokens", "total_tokens", "llm"))
    assert (stripe.name, stripe.meters) == ("stripe-meters", (MeterConfig("tokens", "total_tokens", None),))
    assert (cloud.name, cloud.from_beginning, cloud.batch, cloud.key) == ("cloudevents", True, 7, None)
    assert (folder.path, folder.format) == (Path("/usage"), "parquet")
    assert [each.name for each in exports_of(settings)] == ["lago", "cloudevents", "folder"]
    assert [warning for warning in warnings(settings, 2e9) if "export" in warning] == [
        "export stripe-meters is off: Stripe's meters need PAYMENT_PROVIDER=stripe"
    ]


def test_lago_by_the_environment_alone(tmp_path):
    environ = {"LAGO_API_URL": "https://lago", "LAGO_API_KEY": "k"}
    assert [(each.name, each.kind) for each in exports_of(load(tmp_path, environ))] == [("lago", "lago")]
    own = load(tmp_path, environ, main=MAIN + "exports: [{kind: lago, name: theirs}]\n")
    assert [each.name for each in exports_of(own)] == ["theirs"]
    assert exports_of(load(tmp_path, main=MAIN + "exports: [{kind: lago}]\n")) == ()


@TABLES.each("what_is_wrong_is_told")
def test_what_is_wrong_is_told(tmp_path, text, told):
    (problem,) = problems(tmp_path, main=f"{MAIN}exports: [{text}]\n")
    assert told in problem
