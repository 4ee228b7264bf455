"""The server: a client's connection, one request and its answer on it, and every refusal.

edge             aiohttp's connections: metered requests go straight to the proxy, all others to the application
exchange         one metered request and its answer, as bytes: framing; a broken answer can't pass for a whole one
paced, pace      how fast bodies are taken, and how much is parsed at once; heads  memory of heads that are not whole
guard            what a client costs that shows no key; trailers  of chunked requests, which are never headers
half_closed      whether a client that sends no more is still there
bodies           large bodies: how much is in memory, and work on them beside the loop
metering_headers what a metered answer says of itself; ids  of requests
cors             what browsers are told; listening  sockets; files  how many connections a process can have
refusals         every refusal in the client's envelope; limit_refusals  of balance, windows and concurrency
"""
