"""Stripe as a payment provider, by its library, of the one version of its API that `client` pins.

provider    StripePayments: the port, put together from the others
client      the one place that imports the library: calls, their bounds, and what its errors mean;
            the webhook endpoint and the prices at Stripe, looked at and set right
parameters  what is sent: purchases, pages and changes as parameters      pure
objects, bills  what comes back: Stripe's objects as neutral ones          pure
signatures  who delivered an event, and what it names                     pure

Importing the library takes 0.2 s: `billing.payments.assembly` imports this package only where Stripe is the provider.
"""
