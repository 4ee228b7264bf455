"""The billing HTTP API under /api: JSON over the accounts, keys, grants and reports of `billing`.

    operation   Operation: one endpoint of the API, declared once; operations  all of them
    services    Services: what the handlers work on, and where they find it
    route       Route: what serves an operation, as an aiohttp handler; Call: a request to one; Table: an answer as CSV
    application  the routes as an aiohttp application; one middleware: time limit, every failure in the envelope
    openapi     their OpenAPI document   reference  the same as HTML by group, to read and to try
    auth        the admin key, API keys and scopes; attempts  wrong keys and passwords, counted
    requests    bodies, query strings, paths, checked; ApiError and its envelope; what an exception of `billing` answers
    people      /auth: registering, signing in, tokens, sessions, one's own credentials and profile
    organizations  /orgs, /invitations, /roles   accounts  /admin/accounts, /orgs/{org_id}/close
    directories  /orgs/{org_id}/group-rules and /scim   scim  /scim/v2: what directories of companies call
    keys        /admin/keys, /billing/keys
    credit      lots, coupons, auto-recharge, alerts, budgets, below /billing and /admin
    payments    /billing: status, subscription, checkout, orders; /admin/orders, /admin/payments; /webhooks/stripe
    metering    /service: what other services call
    usage       /account and /billing: balance, transactions, usage events; what was used, in sums, spans and buckets
    remaining   what is left now: of a key's quotas, of a balance
    webhooks_out  /webhooks/endpoints, /admin/webhooks/endpoints: where notices are sent to
    revenue     /admin/payments/revenue: over time, refunds and disputes, subscriptions that are paid for
    oversight   /admin: refusals, users, audit, margin, bills, exports; /account/audit, /ping
    traffic     /admin: traffic over time, providers, health, accounts that run out of credit

What is taken and answered is in `billing.schemas`. `application.setup` mounts it; the gateway calls that and nothing
else. A resource is a module with its schemas there, its operations in `operations`, and a module with their handlers
here, which `application.ROUTES` names.
"""
