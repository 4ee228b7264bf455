"""What the scripts promise, as a model, and the machine that compares them.

reference   one partition as the protocol has it, and the ledger beside it
scripts     the real scripts, called one by one on a clock that the test sets
inputs      what hypothesis draws
machine     traffic and faults on both, and what must hold after every step
"""
