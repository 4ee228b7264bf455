"""What tests of several folders share.

servers            real Postgres and Redis, a pair for each process of tests
scratch            the folder in which a run writes all that it writes
databases          copies of a template that are cleaned and used again
loop_thread        an event loop in a thread, for what outlives a test's own
redis_cluster      six servers of Redis Cluster
compiled           tests that a native build leaves out
garbage            what only the garbage collector finds
shipped            the shipped settings and prices, read once
answering          providers that do as they are told
tables             tables of cases in YAML, next to the tests that read them
tls                certificates for servers of tests
holds              an engine on the real stores, requests for holds, and what both stores say of them
refusals           one of everything that the proxy refuses
gateways           requests to a gateway, and what must hold once one is over
passed_answers     streams through a whole gateway
unreported_costs   answers without a usage of their own
oracle             genai-prices as a second opinion of usage and prices
providers          providers on loopback, and what the transport makes of them
local_answers      those of the local provider
api_formats        what schemathesis takes for the formats that the OpenAPI document names
clients            clients that leave, pause or read slowly
edge_servers       the server's edge on loopback
edge_clients       a client's connection to it, read strictly
fed_connections    a provider's connection, fed by hand
transcripts        what a page says to type, and what comes
forwarding         servers on sockets of files, reached by TCP
programs           programs of the system that tests run, where they are there
buckets            an S3 of moto's, with a bucket
prometheus         Prometheus itself, which scrapes gateways and applies the shipped rules
system_manager     systemd as the first process of namespaces of its own
commands           `metergate` as a person runs it
command_tree       every command, as it is called
command_calls      what commands do with a client, without a command line
releases           two releases of Metergate, each installed in an environment of its own
commander          the same from a process that has imported it
supervised_worker  a worker for tests of the supervisor
supervising        the supervisor, as a process
lone_gateway       gateways, each a process of its own, on stores that are there
transcripts        terminal sessions that a page of the documentation shows
stripe_fake        a Stripe that keeps what it is told and tells what happens
mail               a mail server that keeps what it takes
provider_bills     the APIs in which providers say what they have billed
metering_service   a service that meters what it does at a gateway
env_example        `.env.example`, read
response_sockets   a client of Responses over a WebSocket
exporter           an exporter of traffic that pages, lies, is silent or answers garbage
ports              ports that nobody listens on
stripe_fake        a stateful Stripe, whose clock, cards, events and faults a test has in its hands
usage_peers        a Lago and an OpenMeter, each with its own rule of what is the same event
echo_dialect       an API that nobody has, to show that the gateway knows no other than by its dialect
"""
