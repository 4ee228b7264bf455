-- Every event with what its amount was made from, to be computed again.
SELECT request_id, outcome, estimated, price_id, multiplier, markup_scaled, cost_nano, charged_nano,
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, counts, by_model
FROM usage_events
