"""The proxy: a metered request from its route to its settlement.

course       what becomes of a request, from its key to its settlement: a state machine that waits for nothing
detours      what has to be awaited on the way of a course; serving  what all courses share
handler      drives a course for each request
intake       a request's body, read within bounds and parsed, and its tags
preparation  a request's route, terms and worst case
senders      what sent a request: its session, its tool
candidates   providers and price rows that may serve a request, their targets, and what each is sent always
routing      from a model's name to the candidates that may serve it, their targets and prices; what a model is for
estimate     the worst case, which the hold covers, and the charge
provider_tools  tools that run at the provider: how often, what their calls add to the input, and unknown types
overrun      streams whose tools go beyond their hold
context      what is known of one request so far, and the debit that it becomes; terms of a key on a model
attempts     which target or candidate is asked next; target_health  what is known of them all
provider_request  what a provider is sent: where, with which query string and body; headers  which of them pass
outcomes     what a client is sent in the place of an answer; answers are counted
decoding_tap over a stream that is compressed
detached         how long requests go on, with their clients and without
stored       objects that requests name or create at providers: whose they are
background_jobs  responses in the background: polled until they can be paid
settlement/  what a hold turns into: priced and settled, or given back; usage that did not come
provider_tests  one small request by which an operator learns whether a provider answers
records      refusals that can be looked up; a line of JSON for each request
"""
