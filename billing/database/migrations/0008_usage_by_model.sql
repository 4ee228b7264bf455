-- One answer may have been made by several models, each at its own price.
ALTER TABLE usage_events ADD COLUMN by_model jsonb;
COMMENT ON COLUMN usage_events.by_model IS
    'Where several models used something: a list of {model, price_id, variant, counts}. The columns are their totals.';
