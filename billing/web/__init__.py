"""The console: pages below /console, for customers and operators, on the functions that /api calls.

    application  the pages as an aiohttp application: who is let in, forms, the outermost edge
    pages        Visit, Page, View: a page's declaration, what its handler is given and returns; the navigation
    render       from a view to HTML: templates, filters, files that browsers keep
    sign_in      signing in and out, registering, the operator's link, which organization
    overview     the first page   usage  what was used, in sums
    requests     requests, one explained, those that were refused; models and prices; the first request, a playground
    keys         made, shown once, changed, rotated, revoked   forms  limits and lists as fields
    credit       lots, buying, auto-recharge, orders, transactions; the plan, what a change charges before it is made
    members      roles, limits, invitations, the organization   security  what one signs in with, sessions, audit
    directory    the company's directory: SCIM's tokens, what groups give
    alerts       budgets, low balance, webhooks
    lists        pages that are lists, and pages about one thing, as values: most of the operators' are
    charts       bars over time, as numbers
    operator_home      health, money and traffic over time, what has to be done   operator_house  people, audit
    operator_providers who answers, and how well   operator_accounts  accounts, one with its timeline
    operator_usage     what one account used over time
    operator_requests  everyone's keys and requests    operator_money  payments, plans, margins
    operator_revenue   what came in and went back over time   operator_making  what is made by hand, seen as customer
    operator_prices    prices, their history, file and ledger compared, a usage tried
    operator_flows     jobs, exporters, exports, webhooks   operator_search  what is called so; names in place of ids

To add a page:

1. In a module of its subject, write its handler: an async function of a `Visit` that returns a `View` of a template,
   a `Table` (CSV), or `visit.see("/keys", "saved")` after a change. Work through what /api has: the handlers of
   `billing.api` take `visit.call`, so that a page says what the API says, and a change is audited the same:
   `await list_events(visit.call, visit.query(EventQuery))`, `await create_key(visit.call, visit.body(NewOwnKey,
   name=visit.field("name")))`. Whoever may see the page is not checked by them, but by the page's row.
2. Add its row to `ROUTES` of the module: `Page("GET", "/keys", show_keys, scope=KEYS_READ)`, and the module's `ROUTES`
   to `application.ROUTES`. `who` is `Who.customer` unless it says otherwise. A form is a row with POST; `again` names
   the handler of the page it stands on, which is shown again with what was typed (`ui.field` does so) and
   `visit.problem` where it is refused. A change of one's credentials takes `whole=True`.
3. Add a template that extends base.html. It has `visit`, `zone`, `when(time)`, `static(name)`, the macros of
   macros.html as `ui`, and the filters `money`, `count`, `words`, `day`. Links are `visit.url("/keys", cursor=...)`,
   and `visit.here(page=2)` for the same page with other parameters: never an absolute path, because a proxy may have
   taken a prefix off. Every form that is sent begins with `ui.hidden(visit)`. No `style`, `onclick` or inline script:
   the policy refuses them. What a page says at its top after a change is a name of `pages.NOTICES`.
4. A part that looks again by itself has an id, `data-live`, `hx-get="{{ visit.here() }}"`, `hx-trigger="look"`,
   `hx-select` of that id and `hx-swap="outerHTML"`; console.js tells it to look while somebody does.
5. `pages.CUSTOMER` and `pages.OPERATOR` have the links already: one is shown once its page is there.
6. Add its row to tests/billing/web/test_permissions.py. A POST that leads to another site (a page to pay on) is refused
   by `form-action`: answer it with a page that has the link.
"""
