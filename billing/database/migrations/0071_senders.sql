-- What sent a request, by the headers of known tools: see gateway/proxy/senders.py. Columns without a default are added without
-- touching a row; those of requests before this are null.
SET LOCAL lock_timeout = '10s';
ALTER TABLE usage_events ADD COLUMN session text, ADD COLUMN agent text, ADD COLUMN parent_agent text,
    ADD COLUMN tool text, ADD COLUMN tool_version text;
RESET lock_timeout;
COMMENT ON COLUMN usage_events.session IS 'The conversation that the request belongs to, as its client names it.';
COMMENT ON COLUMN usage_events.agent IS 'Which of several agents of a session has sent it; parent_agent has begun that one.';
COMMENT ON COLUMN usage_events.tool IS 'One of the tools and libraries that gateways know by their headers.';
