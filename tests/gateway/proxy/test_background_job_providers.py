"""What a job of a gateway that is gone is charged."""

import msgspec
import pytest
from ulid import ULID

from billing.owned import Job
from billing.usage import Usage
from gateway.config.settings import load_settings
from gateway.dialects.facts import Reported
from gateway.proxy.background_jobs import TAKEN_OVER, debit_of
from gateway.proxy.candidates import Candidate, Rates
from tests.gateway.commands.test_commands import debit_of as held_by

FACTOR = 20
HELD_NANO = 20_000_000


@pytest.mark.parametrize(("input_tokens", "believed"), [(540_000, True), (FACTOR * 272_000 + 1_000, False)])
def test_what_tools_brought_is_charged_up_to_what_windows_take(input_tokens, believed):
    """A report far above the hold is true where tools at the provider brought a window of input."""
    settings = load_settings({}, mode="command")
    row = settings.prices.find("openai", "gpt-5.1-codex", 1_795_000_000)
    assert row is not None
    assert row.context_window == 272_000
    candidate = Candidate("m", settings.providers["openai"], "m", 0, "o200k_base", None, Rates.of(row))
    held = msgspec.structs.replace(held_by("acc_1", str(ULID())), charged_nano=HELD_NANO, markup_scaled=0)
    job = Job("resp_1", "openai", "response", "m", None, held.request_id, str(ULID()), "g", held, 0.0, 0.0)
    reported = Reported(Usage(input_tokens=input_tokens, output_tokens=9))
    assert (debit_of(job, candidate, reported, FACTOR).note == TAKEN_OVER) is believed
