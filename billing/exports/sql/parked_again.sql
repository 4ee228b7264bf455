-- Events of export $1 that are to be tried again, at most $2.
SELECT e.wseq, e.request_id, e.admitted_at, e.created_at, e.account_id, e.user_id, e.key_id, e.endpoint, e.feature, e.model,
    e.provider, e.provider_model, e.input_tokens, e.cached_input_tokens, e.cache_write_tokens, e.output_tokens,
    e.reasoning_tokens, e.counts, e.cost_nano, e.charged_nano, e.price_id, e.estimated, e.status, e.stream, e.latency_ms,
    e.ttft_ms, e.tags, e.end_user
FROM export_parked AS p JOIN usage_events AS e ON e.request_id = p.item AND e.admitted_at = p.admitted_at
WHERE p.export = $1 AND p.again
ORDER BY p.id
LIMIT $2
