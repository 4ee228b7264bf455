"""Sessions of browsers: what a cookie is worth, and for how long."""

from dataclasses import replace

import pytest

from billing.audit import SYSTEM
from billing.identity.browsers import BrowserRules, Browsers


async def test_a_session_lasts_while_it_is_used_and_no_longer_than_in_all(billing, people):
    browsers = Browsers(billing.database, billing.new_id, "admin key", BrowserRules(idle_s=600, most_s=3600))
    pair = await people.sign_in(await people.user())
    secret = await browsers.bind(pair.session_id)
    assert secret is not None
    assert await people.sessions.refresh(pair.refresh_token, SYSTEM) is None

    async def left_min(passed_s, *, used):
        """How long it lasts after so much time has passed since the last look."""
        await billing.database.execute(
            "UPDATE sessions SET created_at = created_at - $2 * interval '1 second', expires_at = expires_at"
            " - $2 * interval '1 second', last_used_at = last_used_at - $2 * interval '1 second' WHERE id = $1",
            pair.session_id,
            passed_s,
        )
        assert await browsers.caller(secret, used=used) is not None
        left = await billing.database.value(
            "SELECT extract(epoch FROM expires_at - now())::int FROM sessions WHERE id = $1", pair.session_id
        )
        return round(left / 60)

    assert await left_min(300, used=False) == 5
    assert await left_min(240, used=True) == 10
    for _ in range(5):
        await left_min(540, used=True)
    assert await left_min(60, used=True) == 5


def test_over_tls_the_cookie_is_one_that_no_other_host_can_set():
    rules = BrowserRules("https://example.com", secure=True)
    assert rules.cookie == "__Host-mg_session"
    assert replace(rules, secure=False).cookie == "mg_session"
    with pytest.raises(ValueError, match="longer"):
        BrowserRules(link_s=0)
