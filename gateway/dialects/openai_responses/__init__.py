"""OpenAI's Responses API, served by the providers that serve OpenAI's API.

dialect   endpoints, and the few fields of a request that the gateway changes; the same over a WebSocket;
          stored responses and conversations: what they are created by, read and changed; OpenAI's errors, with what
          Codex CLI reads of a quota that is spent, and how Codex wants models listed
request   what a request asks for at most, what may run at the provider, and what its input brings
answer    usage, units and output of a response, whole or in a stream's events
"""
