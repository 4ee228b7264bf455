-- What was given back out of the revenue, or charged more to it, within a time: few transfers of the many of that account.
CREATE INDEX transfers_returned ON transfers (created_at) WHERE kind IN ('refund', 'adjustment');
