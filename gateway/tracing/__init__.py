"""OpenTelemetry traces: one trace a request, exported over OTLP/HTTP. Off unless an endpoint is configured.

trace_context  the headers by which a caller's span is known, and a provider is told of ours
trace          the stages of one request
otlp           finished traces as OTLP has them
exporter       samples requests, and sends what is finished
"""
