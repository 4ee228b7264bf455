-- Events admitted from $1 on and before $2, in the order of their admission; without those that have used nothing.
SELECT e.wseq, e.request_id, e.admitted_at, e.created_at, e.account_id, e.user_id, e.key_id, e.endpoint, e.feature, e.model,
    e.provider, e.provider_model, e.input_tokens, e.cached_input_tokens, e.cache_write_tokens, e.output_tokens,
    e.reasoning_tokens, e.counts, e.cost_nano, e.charged_nano, e.price_id, e.estimated, e.status, e.stream, e.latency_ms,
    e.ttft_ms, e.tags, e.end_user
FROM usage_events AS e
WHERE e.admitted_at >= $1 AND e.admitted_at < $2
    AND (e.outcome = 'settled' OR e.input_tokens + e.output_tokens > 0 OR e.charged_nano > 0)
ORDER BY e.admitted_at, e.request_id
