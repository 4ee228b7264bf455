-- What of usage is apart from the rest is found without reading all of it: estimated, without a price of its own, given back.
CREATE INDEX usage_events_apart ON usage_events (admitted_at)
    WHERE estimated OR outcome = 'expired' OR price_id IN ('', 'named');
