"""Coding agents and tools as they are, by their documented settings, against the gateway and a provider of scripts.

    npm/        the versions of those for Node.js and of programs that npm brings
    drivers/    a program for each Python library that builds agents
    agents      which tools there are, how each is started, and what it calls to read a file
    running     a run of one: a home of its own, no network beyond this machine, an end in any case
    scripts     what the model says next, whatever the API
    apis        that, as each API writes it, with events in the order of recordings
    provider    serves it, counts tokens and keeps what it reported
    world       gateways over it, customers in each state that is refused, holds as the provider's requests arrive
    table       `docs/clients.md`: what each refusal comes to

`make test-agents` installs and runs them; it is no part of `make test`.
"""
