"""Webhook endpoints over the API: a secret shown once, an owner's own alone, bounded, audited without the secret."""

from dataclasses import replace

import msgspec

from billing.notices.endpoints import Endpoints
from billing.settings import WebhookSettings
from tests.billing.api.support import serving

URL = "https://example.com/hooks"


async def test_an_endpoint_from_its_making_to_its_end(services, billing):
    few = Endpoints(billing.database, billing.new_id, WebhookSettings(webhook_endpoints=2))
    async with serving(replace(services, endpoints=few), billing) as api:
        _, key = await api.customer(scopes=["billing:read", "billing:setup"])
        _, stranger = await api.customer(scopes=["billing:read", "billing:setup"])
        path = "/webhooks/endpoints"

        made = await api.by_key(key["key"], "POST", path, {"url": URL, "types": ["key.created", "balance.low"]})
        assert made.status == 201
        secret, endpoint = made.json.pop("secret"), made.json
        assert secret.startswith("whsec_")
        assert (endpoint["types"], endpoint["enabled"]) == (["balance.low", "key.created"], True)
        own = f"{path}/{endpoint['id']}"
        assert (await api.by_key(key["key"], "GET", own)).json == endpoint
        for method in ("GET", "DELETE", "PATCH"):
            asked = {"description": "mine"} if method == "PATCH" else None
            (await api.by_key(stranger["key"], method, own, asked)).refused(404, "not_found")
        assert (await api.admin("GET", own)).status == 404
        (await api.by_key(key["key"], "POST", path, {"url": "http://example.com"})).refused(
            400, "invalid_request_error", "url"
        )
        (await api.by_key(key["key"], "PATCH", own, {"url": "https://127.0.0.1/"})).refused(
            400, "invalid_request_error", "url"
        )
        unknown = await api.by_key(key["key"], "POST", path, {"url": URL, "types": ["balance.high"]})
        assert "types must be one of " in unknown.refused(400, "invalid_request_error", "types")
        patched = await api.by_key(key["key"], "PATCH", own, {"enabled": False, "types": None, "description": "all"})
        assert (patched.json["types"], patched.json["disabled_reason"]) == (None, "by hand")
        rotated = await api.by_key(key["key"], "POST", f"{own}/rotate")
        assert rotated.json["secret"] != secret
        assert rotated.json["enabled"] is False
        tested = await api.by_key(key["key"], "POST", f"{own}/test")
        assert (tested.status, tested.json["state"], tested.json["type"]) == (202, "waiting", "test")
        listed = await api.by_key(key["key"], "GET", f"{own}/deliveries")
        assert listed.json == {"data": [tested.json], "next_cursor": None}
        again = await api.by_key(key["key"], "POST", f"{own}/deliveries/{tested.json['id']}/redeliver")
        assert again.status == 202
        assert (await api.by_key(key["key"], "POST", path, {"url": URL})).status == 201
        message = (await api.by_key(key["key"], "POST", path, {"url": URL})).refused(400, "invalid_request_error")
        assert "delete one" in message
        first = await api.get(key["key"], path, limit="1")
        second = await api.get(key["key"], path, cursor=first.json["next_cursor"])
        assert [each["id"] for each in second.json["data"]] == [endpoint["id"]]
        assert (await api.by_key(key["key"], "DELETE", own)).status == 204
        (await api.by_key(key["key"], "GET", own)).refused(404, "not_found")
        operators = await api.admin("POST", path, {"url": URL})
        assert operators.json["account_id"] is None
        assert [each["id"] for each in (await api.admin("GET", path)).json["data"]] == [operators.json["id"]]
        rows = (await api.admin("GET", "/audit?action=webhook.*")).json["data"]
        assert {row["action"].partition(".")[2] for row in rows} == {"create", "update", "rotate", "delete"}
        assert secret.encode() not in msgspec.json.encode(rows)
