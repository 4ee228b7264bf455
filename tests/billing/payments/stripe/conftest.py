"""Stripe's adapter on the fake."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from billing.payments.stripe.provider import StripeAccess, StripePayments
from tests.support.stripe_fake import FakeStripe

DEPLOYMENT = "01JDEPLOYMENT"


@pytest.fixture
async def stripe() -> AsyncIterator[FakeStripe]:
    """The fake. A test that has called what Stripe does not have, or without a key of ours, fails."""
    async with FakeStripe().serving() as fake:
        yield fake
        assert fake.violations == []


@pytest.fixture
async def provider(stripe: FakeStripe) -> AsyncIterator[StripePayments]:
    """Stripe behind the port, without retries: each fault is seen."""
    access = StripeAccess(stripe.api_key, stripe.url, timeout_s=5, connect_timeout_s=5, retries=0)
    made = StripePayments(
        access, ["whsec_old", stripe.secret], DEPLOYMENT, lambda: datetime.fromtimestamp(stripe.state.now, UTC)
    )
    yield made
    await made.close()
