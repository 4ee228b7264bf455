"""The billing HTTP API under /api: JSON over the accounts, keys, grants and reports of `billing`.

    services    Services: what the handlers work on, and where they find it
    operation   Operation: one endpoint of the API, declared once; operations  all of them
    route       Route: what serves an operation, as an aiohttp handler; Call  a request to one
    application  the routes as an aiohttp application; one middleware: time limit, every failure in the envelope
    openapi     their OpenAPI document; reference  the same as a page to read
    errors      ApiError and its envelope; what an exception of `billing` answers
    auth        the admin key, API keys and scopes; attempts  wrong keys and passwords, counted
    requests    bodies, query strings and paths, checked; expect_continue  clients that wait with their body
    people      /auth: registering, signing in, one's own credentials and profile
    accounts    /admin/accounts, /orgs/{org_id}/close   keys  /admin/keys
    tokens      /auth: refresh, narrow, revoke; sessions; /auth/oidc: signing in elsewhere
    browsers    sessions of browsers; /admin/login-links, by which an operator begins one
    organizations  /orgs, /invitations, /roles   own_keys  /billing/keys
    metering    /service: what other services call   event_bodies  batches of usage, cut into their events
    credit      lots, coupons, auto-recharge, alerts, below /billing and /admin   budgets  /billing/budgets
    usage       /account: balance, transactions, usage events   sums  /account and /billing: what was used, in sums
    buckets     buckets of time, read in parts   usage_reports  what was used in spans of time, with bytes of traffic
    plans         /billing/status, /billing/subscription, /service/features
    webhooks_out  /webhooks/endpoints, /admin/webhooks/endpoints: where notices are sent to
    payments    /billing: setup, portal, checkout, orders; /admin/orders, /admin/payments; /webhooks/stripe
    exports     /admin/exports: usage on its way to other systems
    oversight   /admin/refusals, /admin/providers, /admin/users, /admin/audit, /account/audit, /ping
    margin      /admin/margin   live_windows  what is left of a key's quotas
    tables      answers as CSV

What is taken and answered is in `billing.schemas`. `application.setup` mounts it; the gateway calls that and nothing
else. A resource is a module with its schemas there, its operations in `operations`, and a module with their handlers
here, which `application.ROUTES` names.
"""
