"""The company's directory through the console: tokens that are shown once, and rules for groups."""

import re


async def test_tokens(console):
    assert "No tokens yet" in (await console.get("/directory", "viewer")).words
    assert "Owners of the organization change this" in (await console.get("/directory", "admin")).words
    assert (await console.post("/directory/tokens", "admin", {"name": "Okta"})).status == 403
    wrong = await console.post("/directory/tokens", "owner", {"name": ""})
    assert (wrong.status, "<details open><summary>Create a token" in wrong.text) == (422, True)
    made = await console.post("/directory/tokens", "owner", {"name": "Okta"})
    [token] = re.findall(r"mgs_[A-Za-z0-9_-]{43}", made.text)
    page = await console.get("/directory", "owner")
    assert (token in page.text, token[:10] in page.text, "never" in page.words) == (False, True, True)
    assert "/scim/v2" in page.words
    [path] = re.findall(r"/directory/tokens/sct_\w+/revoke", page.text)
    assert (await console.post(path, "owner")).location.endswith("directory?notice=token-revoked")
    page = await console.get("/directory", "owner")
    assert ("revoked" in page.words, path in page.text) == (True, False)


async def test_rules(console):
    for form, field in (
        ({"group": "", "role": "member"}, "group"),
        ({"group": "a", "role": "owner"}, "role"),
        ({"group": "a", "max_keys": "some"}, "max_keys"),
        ({"group": "a", "limit": "much"}, "quotas"),
    ):
        wrong = await console.post("/directory/rules", "owner", form)
        assert (wrong.status, f'id="w-{field}"' in wrong.text) == (422, True), form
    for form in (
        {"group": "*", "role": "viewer"},
        {"group": "Engineering", "role": "member", "max_keys": "5", "limit": "$50"},
        {"group": "engineering", "role": "admin", "max_keys": "5", "limit": "50"},
    ):
        assert (await console.post("/directory/rules", "owner", form)).status == 303
    org_id = console.organization.id
    rules = (await console.api(f"/orgs/{org_id}/group-rules", "owner"))["rules"]
    quotas = [{"window": "month", "metric": "cost", "limit": "50.00"}]
    assert rules == [
        {"group": "engineering", "role": "admin", "max_keys": 5, "quotas": quotas},
        {"group": "*", "role": "viewer", "max_keys": None, "quotas": None},
    ]
    assert "$50.00 a month" in (await console.get("/directory", "viewer")).words
    assert (await console.post("/directory/rules/remove", "owner", {"group": "*"})).status == 303
    assert len((await console.api(f"/orgs/{org_id}/group-rules", "owner"))["rules"]) == 1
