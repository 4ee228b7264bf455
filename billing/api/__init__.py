"""The billing HTTP API under /api: JSON over the accounts, keys, grants and reports of `billing`.

    services    Services: what the handlers work on, and where they find it
    errors      ApiError and its envelope; what an exception of `billing` answers
    error_middleware  the one middleware: time limit, every failure in the envelope
    auth        the admin key, API keys and scopes
    requests    bodies, query strings and paths, checked; models the bodies' shapes
    shapes      what is answered: one function a shape
    accounts    /admin/accounts   keys  /admin/keys   refusals  /admin/refusals
    reads       /account and /billing   ping  /ping

`setup` mounts it; the gateway calls that and nothing else.
"""

from aiohttp import web

from billing.api import accounts, keys, ping, reads, refusals
from billing.api.auth import admin_only
from billing.api.error_middleware import edge
from billing.api.services import SERVICES, Services

__all__ = ["Services", "setup"]


def setup(app: web.Application, services: Services) -> None:
    """Mount the API under /api of `app`, as an application of its own: its 404 and 405 have its envelope."""
    api = web.Application(middlewares=[edge])
    api[SERVICES] = services
    for method, path, handler in accounts.ROUTES + keys.ROUTES + refusals.ROUTES:
        api.router.add_route(method, path, admin_only(handler))
    for method, path, handler in reads.ROUTES + ping.ROUTES:
        api.router.add_route(method, path, handler)
    app.add_subapp("/api", api)
