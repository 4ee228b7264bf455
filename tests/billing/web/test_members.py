"""Members through the console: invited, given roles and limits, removed, and the organization given away."""

import re
from urllib.parse import quote

from billing.ledger.catalogue import sync_prices
from billing.usage import Usage
from tests.billing.identity.support import token_sent
from tests.billing.support import PRICES
from tests.billing.web.support import changed, fields


async def test_members_from_invitation_to_removal(console):
    billing, account_id, persons = console.billing, console.organization.account_id, console.persons
    await sync_prices(billing.database, PRICES)
    key, _ = await billing.keys.create(account_id, "laptop", user_id=persons["member"])
    await billing.debit(account_id, key.id, Usage(input_tokens=4000), user_id=persons["member"])
    listed = await console.get("/members", "viewer")
    summary = await console.api("/account/usage/summary", "viewer", group_by="user")
    assert [each for each in listed.values if each != "0.00"] == [summary["total"]["charged_usd"]]
    assert "may not invite" in listed.words

    wrong = await console.post("/members/invite", "admin", {"email": "nowhere", "role": "viewer"})
    assert (wrong.status, 'value="nowhere"' in wrong.text) == (422, True)
    assert 'value="owner"' not in re.split('name="role"', wrong.text)[1]  # above an admin
    sent = await console.post("/members/invite", "admin", {"email": "stranger@example.com", "role": "viewer"})
    assert sent.location == "../members?notice=invited"
    page = await console.get("/members", "admin")
    invitation = re.search(r"/members/invitations/(\w+)/resend", page.text)
    assert (await console.post(f"/members/invitations/{invitation[1]}/resend", "owner")).status == 303
    token = await token_sent(billing, "stranger@example.com")
    shown = await console.get(f"/invitations/{token}", "stranger")
    assert "Somebody at example.com invites stranger@example.com to Acme, as viewer." in shown.words
    assert "admin@" not in shown.text
    for who in ("nobody", "member"):  # whose invitation it is, before anybody has signed in
        seen = await console.get(f"/invitations/{token}", who)
        assert "Somebody at example.com invites stranger@example.com to Acme" in seen.words
        assert "Join Acme</button>" not in seen.text
    there = quote(f"/invitations/{token}", safe="")
    assert (
        f'href="../register?next={there}&amp;email=stranger%40example.com"'
        in (await console.get(f"/invitations/{token}", "nobody")).text
    )
    assert (await console.post(f"/invitations/{token}", "member")).status == 404
    assert (await console.post(f"/invitations/{token}", "stranger")).location == "../?notice=joined"
    assert "stranger@example.com" in (await console.get("/members", "viewer")).words
    assert "Members of Acme" in (await console.get("/members", "stranger")).words  # the pages are about it now
    assert (await console.get(f"/invitations/{token}", "nobody")).status == 404  # it was used

    path = f"/members/{persons['stranger']}"
    form = fields(await console.get(path, "admin"), f"{path}/limits")
    limited = await console.post(f"{path}/limits", "admin", changed(form, quota_limit="5"))
    assert limited.status == 303
    assert "$5.00 a month" in (await console.get(path, "viewer")).words
    wrong = await console.post(f"{path}/limits", "admin", changed(form, quota_limit="-5"))
    assert (wrong.status, 'id="w-quotas"' in wrong.text, 'value="-5"' in wrong.text) == (422, True, True)
    assert (await console.post(f"{path}/role", "admin", {"role": "owner"})).status == 403
    assert (await console.post(f"{path}/role", "admin", {"role": "member"})).status == 303
    own = await console.get(f"/members/{persons['owner']}", "admin")
    assert "may not change this member" in own.words
    assert (await console.post(f"{path}/remove", "member")).status == 403
    assert (await console.post(f"{path}/remove", "admin")).location == "../../members?notice=member-removed"
    assert (await console.post("/members/name", "owner", {"name": "Acme  Two"})).status == 303
    assert "Members of Acme Two" in (await console.get("/members", "owner")).words

    given = await console.post(f"/members/{persons['admin']}/transfer", "owner", {"become": "viewer"})
    assert given.location == "../../members?notice=transferred"
    assert (await console.post("/members/invite", "owner", {"email": "x@example.com"})).status == 403
    left = await console.post(f"/members/{persons['owner']}/remove", "owner")
    assert left.location == "../../?notice=left"
    assert (await console.post("/organizations/new", "owner", {"name": "Mine"})).location == "../?notice=founded"
