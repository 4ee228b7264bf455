"""Redis: the one place that imports redis (`server`) and hiredis (`connection`).

client       Redis as the engine sees it: one server, or a cluster whose slots are followed
server       one server: a connection for scripts, one for plain commands; subscriptions
connection   commands and script calls: one write and one parsed reply each, any number in flight; what can go wrong
state        the names of keys, the partition of an account, and what the scripts have written, read back
layout       the packed layout of state, on Python's side; `lua/_state.lua` is the other
"""
