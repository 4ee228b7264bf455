"""Other services: what they meter, through the balance, quotas, holds and ledger that requests have.

events    what is asked under an event's id, what it costs, its debit, and the ways that it fails; writing them, each
          once: the id of an event and its debit in one transaction
metering  what a service calls: checks, debits, usage, and holds that outlast the process that made them; what plans
          allow beside, and units of it in a period
"""
