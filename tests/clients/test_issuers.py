"""Issuers that no one here wrote: oauth2-mock-server's tokens at a gateway whose AUTH_BASE_URL it is, and signing in at
emulate's Google and GitHub, as a browser does."""

import asyncio
import json
import re
import socket
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from billing.identity.providers import SignInProvider
from gateway.config.settings import IdentityConfig
from tests.clients.node_programs import MODULES, WAIT_S, needs, running
from tests.gateway.conftest import Gateway
from tests.support.gateways import Fetched, fetch
from tests.support.ports import free_ports

pytestmark = pytest.mark.slow

PUBLIC = "http://localhost:8080"


@dataclass
class Issuer:
    """A running oauth2-mock-server."""

    url: str
    process: asyncio.subprocess.Process

    async def ask(self, asked: dict[str, Any]) -> str:
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        async with asyncio.timeout(WAIT_S):
            return (await self.process.stdout.readline()).decode().strip()

    async def token(self, *, kid: str | None = None, **claims: Any) -> str:
        return await self.ask({"claims": {"aud": "gateway", "sub": "ann", "jti": "1", **claims}, "kid": kid})


async def me(gateway: Gateway, token: str) -> Fetched:
    return await fetch(gateway.session.get(f"{gateway.url}/api/auth/me", headers={"Authorization": f"Bearer {token}"}))


@needs("oauth2-mock-server")
async def test_tokens_of_another_issuer(make_gateway):
    program = (Path(__file__).parent / "npm" / "issuer.mjs").read_text("utf-8")
    started = running("--input-type=module", "--eval", program, ready="^http", cwd=MODULES.parent)
    async with started as (process, url):
        issuer = Issuer(url, process)

        def believing(settings):
            return replace(settings, auth_base_url=url, auth_audience="gateway", auth_internal_audience="staff")

        gateway = await make_gateway(change=believing)
        profile = (await me(gateway, await issuer.token(email="ann@example.com", email_verified=True))).json
        assert (profile["email"], profile["role"]) == ("ann@example.com", "owner")
        again = await asyncio.gather(*(me(gateway, token) for token in [await issuer.token()] * 5))
        assert {each.json["id"] for each in again} == {profile["id"]}
        crowd = [await issuer.token(sub="crowd", jti=str(number)) for number in range(8)]
        found = await asyncio.gather(*(me(gateway, token) for token in crowd))
        assert len({each.json["id"] for each in found}) == 1, "who is seen for the first time is made once"
        for wrong in ({"aud": "another"}, {"exp": 1}, {"iss": "http://evil.example"}):
            assert (await me(gateway, await issuer.token(**wrong))).status == 401
        for claims, status in (({"role": "admin"}, 403), ({"role": "admin", "aud": "staff"}, 200)):
            headers = {"Authorization": f"Bearer {await issuer.token(sub='boss', jti='2', **claims)}"}
            fetched = await fetch(gateway.session.get(f"{gateway.url}/api/admin/accounts", headers=headers))
            assert fetched.status == status
        token = await issuer.token(jti="lost")
        headers = {"Authorization": f"Bearer {token}"}
        revoked = gateway.session.post(f"{gateway.url}/api/auth/revoke", json={"token": token}, headers=headers)
        assert (await fetch(revoked)).json["success"]
        assert (await me(gateway, token)).status == 401
        assert (await me(gateway, await issuer.token())).status == 200
        kids = json.loads(await issuer.ask({"rotate": True}))
        assert (await me(gateway, await issuer.token(kid=kids[-1]))).status == 401, "its keys were read a moment ago"


def port_is_free(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


def providers(google: str, github: str) -> dict[str, SignInProvider]:
    return {
        "google": SignInProvider(google, "gateway", "secret", trusted_email=True),
        "github": SignInProvider(
            github, "gateway", "secret", "github", ("read:user", "user:email"), trusted_email=True, api_url=github
        ),
    }


def seed(name: str) -> dict[str, Any]:
    client = {"client_id": "gateway", "client_secret": "secret", "name": "Gateway"}
    return {**client, "redirect_uris": [f"{PUBLIC}/api/auth/oidc/{name}/callback"]}


async def in_browser(gateway: Gateway, name: str, user: str) -> Fetched:
    """Sign in as a user of emulate: its page is a form for each one."""
    session = gateway.session
    async with session.get(f"{gateway.url}/api/auth/oidc/{name}", allow_redirects=False) as begun:
        where, cookie = begun.headers["Location"], begun.headers["Set-Cookie"].partition(";")[0]
    async with session.get(where) as page:
        forms = re.findall(r'<form[^>]*action="([^"]*)"[^>]*>(.*?)</form>', await page.text(), re.DOTALL)
    action, inside = next(form for form in forms if f'value="{user}"' in form[1])
    fields = dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', inside))
    target = urlsplit(where)
    form = {name: unescape(value) for name, value in fields.items()}
    async with session.post(f"{target.scheme}://{target.netloc}{action}", data=form, allow_redirects=False) as sent:
        back = urlsplit(sent.headers["Location"])
    assert f"{back.scheme}://{back.netloc}" == PUBLIC
    query = {name: values[0] for name, values in parse_qs(back.query).items()}
    return await fetch(session.get(f"{gateway.url}{back.path}", params=query, headers={"Cookie": cookie}))


@needs("emulate")
async def test_signing_in_at_google_and_github(make_gateway, tmp_path):
    seeds = {
        "google": {"users": [{"email": "ann@example.com", "name": "Ann"}], "oauth_clients": [seed("google")]},
        "github": {
            "users": [{"login": "ann", "name": "Ann", "email": "ann@example.com"}],
            "oauth_apps": [seed("github")],
        },
    }
    file = tmp_path / "seed.json"
    port = next(port for port in free_ports(20) if port_is_free(port + 1))
    file.write_text(json.dumps(seeds))
    program = str(MODULES / "emulate" / "dist" / "index.js")
    options = ("start", "--service", "google,github", "--port", str(port), "--seed", str(file))
    async with running(program, *options, ready="Ready"):
        identity = IdentityConfig(
            public_url=PUBLIC, providers=providers(f"http://localhost:{port}", f"http://localhost:{port + 1}")
        )
        gateway = await make_gateway(change=lambda settings: replace(settings, identity=identity))
        by_google = await in_browser(gateway, "google", "ann@example.com")
        assert by_google.status == 200, by_google.body
        profile = (await me(gateway, by_google.json["access_token"])).json
        assert (profile["email"], profile["role"]) == ("ann@example.com", "owner")
        by_github = await in_browser(gateway, "github", "ann")
        assert by_github.status == 200, by_github.body
        assert (await me(gateway, by_github.json["access_token"])).json["id"] == profile["id"], (
            "the proven address is hers"
        )
