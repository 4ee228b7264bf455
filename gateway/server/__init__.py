"""The server: a client's connection, one request and its answer on it, and every refusal.

accepting        takes connections as there is room for them; clients  whose there are how many, and which end first
edge             the server: metered requests go straight to the proxy, all others to the application
front            one connection of a client as long as its requests are metered and plain; known_heads  which heads that
                 are, and what is remembered of them
connection       one connection of a client of any other kind: aiohttp's, whose requests are served in order
aiohttp_private  every private part of aiohttp that this takes, compared at start; plain  the edge without them
ports, exchange  one metered request and its answer, as bytes: framing; a broken answer can't pass for a whole one
frames           the same of one message of a WebSocket
stalls           clients that take nothing of their answer, or send no more
paced            how fast bodies are taken, and how much is parsed at once; heads  memory of heads that are not whole,
                 and trailers, which are never headers
guard            what a client costs that shows no key
bodies           large bodies: how much is in memory, and work on them beside the loop
ids              of requests, and what else a metered answer says of itself
caching          what caches are told
cors             what browsers are told; listening  sockets, and how many connections a process can have
refusals         every refusal in the client's envelope; limit_refusals  of balance, windows and concurrency
"""
