"""The proxy: a metered request from its route to its settlement.

handler      route, authenticate, estimate, hold, forward, price, settle: the order of the checks
intake       a request's body, read within bounds and parsed
routing      from a model's name to a provider; terms  what is the same for all requests of a key on a model
estimate     the worst case, which the hold covers, and the charge
context      what is known of one request so far, and the debit that it becomes
forward      from hold to settlement: send, read, settle before the last bytes
outgoing     the body that a provider is sent; query  what of a query string
relay        answers that are streams; decoding_tap  over one that is compressed
remainder    what goes on when the client is gone; running  the longest life of a request
settlement   what a hold turns into: priced and settled, or given back; missing_usage  usage that did not come
outcomes     what a client is told in the place of an answer
records      refusals that can be looked up; request_log  a line of JSON for each request
"""
