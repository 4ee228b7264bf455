"""Redis: the one place that imports redis (`client`) and hiredis (`connection`).

client       Redis as the engine sees it: one server, or a cluster whose slots are followed; of each server a connection
             for scripts, one for plain commands, and subscriptions
connection   commands and script calls: one write and one parsed reply each, any number in flight; what can go wrong;
             the session that was agreed on with a server
state        what the scripts have written, read back
layout       names of keys, partitions of accounts, and the packed layout of state, on Python's side; `lua/_state.lua`
             is the other
"""
