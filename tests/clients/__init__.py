"""Libraries that people use, run as they are against the gateway: what each makes of an answer and of a refusal.

    drivers/      a program for each Python library, run in an environment of its own (`requirements/clients.lock`)
    npm/          the same for Node.js, which comes as a wheel; its packages are in `package-lock.json`
    libraries     which libraries there are, and a process of one
    aimock        a server that answers as providers do, from fixtures
    imitated      what it is asked for, and what it answers and reports
    trying        libraries of one program, each asked for all of that
    node_programs  programs of Node.js that tests start
    relay         between a library and the gateway: counts requests and keeps answers, changes no byte
    behaviours    what the gateway is made to do
    provider      what the provider behind it answers, in each API
    table         `docs/clients.md`: what was seen, as rows

`make test` installs both; where that can't be done, the tests are skipped and say so.
"""
