"""Chaos: a whole gateway under load while its parts are killed, frozen and emptied, and then the books are compared.

    harness       Stack: embedded servers, three workers under a supervisor, all killable; places  where it lives
    gateway       the supervisor's process; worker  a worker whose wall clock can be set back
    waiting       for a state, with a bound; quiet  until journals are swept and debits written
    upstream      a provider that keeps what it was asked; plan  what a request asks of it, and what that must cost
    clients       the load, and a record of how every answer ended
    faults        what is done to whom; disk  a disk that is full; cluster  masters of a Redis Cluster that are lost
    crowds        connections that come by thousands and end nothing; crowd_figures  how long others wait for them
    misuse        clients that stop reading, and bodies that are dear to parse
    stores        locks, slow commits, a lost journal, a restored backup; twice  two faults within a second
    clocks        servers with clocks of their own; between  scripts that stand before the servers
    ledger_check  the verdict: what clients and the provider saw beside what the ledger and Redis hold
    background    responses in the background, each charged once
    payments      payments under kills; payers  who buys and gives back; tills  where they pay
    paid          the verdict by the provider's objects
    beside        rounds judged by counts of their own: batches  of usage with bad bytes, exports  to a Lago,
                  handover  to new workers, migrations  of a filled ledger, later  which they are
    releases      two releases side by side under load, with kills, an upgrade and the way back
    run           rounds of faults under load; report  the table
    soak          minutes or hours without faults: memory, descriptors and both stores stay as they are

`python -m tests.chaos` runs the long version; `test_chaos.py`, `test_cluster.py` and `test_overspend.py` are the short
ones.
"""
