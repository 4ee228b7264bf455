"""`metergate operator stripe sync`: the endpoint is made from here, and its secret shown to nobody."""

import asyncio
import stat

from tests.support.commands import Shell, with_host
from tests.support.stripe_fake import FakeStripe


async def test_sync_makes_the_endpoint_and_keeps_its_secret(tmp_path):
    shell, file = Shell(tmp_path), tmp_path / "secret"
    async with FakeStripe().serving() as stripe:
        stripe.subscriptions.add_price("price_1", 9900)
        env = {"STRIPE_API_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url, "STRIPE_PRICE_STARTER": "price_1"}
        command = ("operator", "stripe", "sync", "https://gateway.example.com", "--secret-file", str(file))

        async def run(**changed):
            return await asyncio.to_thread(shell.run, *command, env=env | changed)

        made = await run()
        assert made.code == 0, made.stderr
        assert "created" in made.stdout
        assert stripe.secret not in made.stdout + made.stderr
        assert file.read_text() == stripe.secret + "\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        (endpoint,) = stripe.state.all("webhook_endpoint")
        assert endpoint["url"] == "https://gateway.example.com/api/webhooks/stripe"
        assert str(file) in (await run()).failed(2)
        file.unlink()
        assert "price_2" in (await run(STRIPE_PRICE_STARTER="price_2")).stdout
        assert "sk_test_" in (await run(STRIPE_API_KEY="pk_test_1")).failed(2)
        (await run(STRIPE_API_KEY="")).failed(2)
        (await run(STRIPE_API_KEY="sk_test_wrong")).failed(1)
        assert stripe.violations == []


def test_a_comparison_needs_no_gateway_that_runs(tmp_path, database_url, redis_url):
    env = {"DATABASE_URL": with_host(database_url), "REDIS_URL": redis_url, "PAYMENT_PROVIDER": "local"}
    shell = Shell(tmp_path, env)
    assert "Nothing was compared" in shell.run("operator", "stripe", "reconcile").stdout
    done = shell.run("operator", "stripe", "reconcile", "--since", "2026-01-01")
    assert (done.code, "0 objects since 2026-01-01" in done.stdout, "; 0 differ." in done.stdout) == (0, True, True), (
        done
    )
