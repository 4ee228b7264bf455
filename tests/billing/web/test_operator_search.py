"""Names stand for ids in filters and forms, and everything is found from one place."""

from billing.usage import Usage


async def test_filters_take_names_and_suggest_them_and_what_is_found_leads_to_its_page(console):
    account_id, billing = console.organization.account_id, console.billing
    key, _ = await billing.keys.create(account_id, "laptop")
    request_id = await billing.debit(account_id, key.id, Usage(input_tokens=1))
    for typed in ("acme", "AC", account_id[:-1], account_id):
        keys = await console.get("/operator/keys", "operator", params={"account_id": typed})
        assert keys.status == 200
        assert "laptop" in keys.words
        assert f"acc_…{account_id[-6:]}" in keys.words
    picks = await console.get("/operator/picks", "operator", params={"kind": "account", "account_id": "ac"})
    assert '<option value="Acme">' in picks.text
    assert account_id in picks.text
    none = await console.get("/operator/keys", "operator", params={"account_id": "nobody"})
    assert (none.status, "No account is named" in none.words) == (400, True)
    await billing.accounts.create("Acme too", "free")
    await billing.accounts.create("Acme too", "free")
    several = await console.get("/operator/keys", "operator", params={"account_id": "acme too"})
    assert (several.status, several.words.count("Acme too (acc_")) == (400, 2)
    found = await console.get("/operator/search", "operator", params={"q": "acme"})
    assert f'href="../operator/accounts/{account_id}"' in found.text
    found = await console.get("/operator/search", "operator", params={"q": request_id})
    assert f'href="../operator/requests/{request_id}"' in found.text
    found = await console.get("/operator/search", "operator", params={"q": "FAS"})
    assert "Models fast" in found.words
    assert "data-find" not in (await console.get("/usage", "owner")).text


async def test_a_form_takes_a_name_for_an_account(console):
    parked = await console.post(
        "/operator/payments/parked/credit", "operator", {"parked_id": "1", "account_id": "Nobody", "note": "x"}
    )
    assert parked.status == 400
    parked = await console.post(
        "/operator/payments/parked/credit", "operator", {"parked_id": "1", "account_id": "Acme", "note": "x"}
    )
    assert parked.status == 404  # the account is known, the payment is not
