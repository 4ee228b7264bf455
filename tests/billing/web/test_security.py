"""What one signs in with, where one is signed in, and what was done to the organization."""

import re

from billing.identity.codes import TOTP_STEP_S, totp_code
from tests.billing.people_support import GOOD

OTHER = "copper lantern orchard brisk"


async def test_a_person_changes_what_they_sign_in_with(console, registry):
    hashed = await registry.people.passwords.hash(GOOD, "")
    execute = console.billing.database.execute
    await execute("UPDATE users SET password_hash = $1 WHERE id = $2", hashed, console.persons["admin"])
    wrong = await console.post("/security/totp", "admin", {"totp_password": "wrong"})
    assert wrong.status == 401
    assert 'id="w-totp_password"' in wrong.text
    assert 'id="w-password"' not in wrong.text
    made = await console.post("/security/totp", "admin", {"totp_password": GOOD})
    secret = re.search(r"<code>([A-Z2-7]{16,})</code>", made.text)
    assert secret is not None
    assert 'href="otpauth://totp/' in made.text
    assert made.text.count("<path") == 2  # the QR code: paths alone, which the pages' policy allows
    assert "<style" not in made.text.partition("<main")[2]
    assert " style=" not in made.text
    missed = await console.post("/security/totp/confirm", "admin", {"code": "000000"})
    assert (missed.status, 'id="w-code"' in missed.text) == (401, True)
    code = totp_code(secret[1], int(registry.clock()) // TOTP_STEP_S)
    shown = await console.post("/security/totp/confirm", "admin", {"code": code})
    codes = re.search(r"<code>([^<]+)</code>", shown.text)
    first = codes[1].split()[0]
    assert "an authenticator app" in (await console.get("/security", "admin")).words
    renewed = await console.post("/security/totp/recovery-codes", "admin", {"factor": first})
    assert renewed.status == 200
    assert first not in renewed.text
    refused = await console.post(
        "/security/totp/remove", "admin", {"remove_password": GOOD, "remove_factor": "not-a-code"}
    )
    assert (refused.status, 'id="w-remove_factor"' in refused.text) == (401, True)

    weak = await console.post("/security/password", "admin", {"current_password": GOOD, "password": "short12"})
    assert (weak.status, 'id="w-password"' in weak.text) == (422, True)
    done = await console.post("/security/password", "admin", {"current_password": GOOD, "password": OTHER})
    assert done.location == "../security?notice=password-changed"
    assert (await console.get("/security", "admin")).status == 200

    asked = await console.post("/security/address", "admin", {"email": "ada@example.com", "email_password": OTHER})
    challenge = re.search(r'name="challenge" value="([^"]+)"', asked.text)
    form = {"email": "ada@example.com", "challenge": challenge[1], "code": "000000"}
    missed = await console.post("/security/address/confirm", "admin", form)
    assert (missed.status, f'value="{challenge[1]}"' in missed.text) == (401, True)
    form["code"] = await registry.mailed_code("ada@example.com")
    assert (await console.post("/security/address/confirm", "admin", form)).status == 303
    assert (await console.post("/security/name", "admin", {"name": "<Ada>"})).status == 303
    page = await console.get("/security", "admin")
    assert "ada@example.com" in page.words
    assert 'value="&lt;Ada&gt;"' in page.text


async def test_sessions_are_listed_and_ended_and_what_was_done_can_be_read(console):
    await console.cookie("owner")
    console.cookies["other"] = console.cookies.pop("owner")
    page = await console.get("/security", "owner")
    ended = re.findall(r"/security/sessions/(\w+)/end", page.text)
    assert len(ended) == 1
    assert (await console.post(f"/security/sessions/{ended[0]}/end", "owner")).status == 303
    assert (await console.get("/security", "other")).status == 303
    assert (await console.post(f"/security/sessions/{ended[0]}/end", "viewer")).status == 404

    await console.post("/keys/new", "owner", [("name", "<b>"), ("scope", "llm:proxy")])
    audit = await console.get("/security/audit?action=key.*", "owner")
    entries = (await console.api("/account/audit", "owner", action="key.*"))["data"]
    assert len(entries) == audit.text.count('data-label="Action"') == 1
    assert "<ins>&lt;b&gt;</ins>" in audit.text
    assert f"&lt;b&gt;<br><code>{entries[0]['subject']}</code>" in audit.text  # what the key is called now
    assert (await console.post("/security/end-all", "owner")).location == "../sign-in?notice=signed-out"
    assert (await console.get("/security", "owner")).status == 303


async def test_times_are_those_of_the_persons_own_zone(console):
    await console.billing.accounts.update(console.organization.account_id, tz="America/New_York")
    assert (
        '<span class="zone" title="Times are shown in this time zone">America/New_York'
        in (await console.get("/security", "owner")).text
    )
    wrong = await console.post("/security/zone", "owner", {"tz": "Nowhere/None"})
    assert (wrong.status, 'id="w-tz"' in wrong.text, 'value="Nowhere/None"' in wrong.text) == (422, True, True)
    assert (await console.post("/security/zone", "owner", {"tz": "Asia/Tokyo"})).status == 303
    assert ">Asia/Tokyo<" in (await console.get("/usage", "owner")).text
    assert ">America/New_York<" in (await console.get("/usage", "viewer")).text
    assert (await console.api("/auth/me", "owner"))["tz"] == "Asia/Tokyo"
    assert (await console.post("/security/zone", "owner", {"tz": ""})).status == 303
    assert (await console.api("/auth/me", "owner"))["tz"] is None


async def test_sessions_are_told_apart_by_device(console):
    await console.cookie("owner")
    told = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    await console.billing.database.execute("UPDATE sessions SET user_agent = $1", told)
    assert "Firefox on Linux" in (await console.get("/security", "owner")).words


async def test_rules_of_passwords_are_said_before_one_is_typed(console):
    for path, who in (("/register", "nobody"), ("/reset", "nobody"), ("/security", "owner")):
        words = (await console.get(path, who)).words
        assert "15 characters or more" in words
        assert "not a password that many people have, a run of keys, your name or your address." in words
