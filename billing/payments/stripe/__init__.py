"""Stripe as a payment provider, by its library, of the one version of its API that `provider` pins.

provider  StripePayments: the port; the one place that imports the library: calls, their bounds, what its errors mean;
          the webhook endpoint and the prices at Stripe, checked and set right
objects   Stripe's objects as neutral ones, and what is sent as parameters      pure
events    which kinds of events there are, who delivered one, and what it names      pure

Importing the library takes 0.2 s: `billing.payments.assembly` imports this package only where Stripe is the provider.
"""
