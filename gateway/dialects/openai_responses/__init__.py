"""OpenAI's Responses API, served by the providers that serve OpenAI's API.

dialect   endpoints, and the few fields of a request that the gateway changes
request   what a request asks for at most; items  what its input brings beside text; tools  what may run at the provider
objects   stored responses and conversations: what they are created by, read and changed
texts     what of a request a model reads
socket    the same over a WebSocket: each message a request
answer    usage, units and output of a whole response; events  the same in a stream
"""
