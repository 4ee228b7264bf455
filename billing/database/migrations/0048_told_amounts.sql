-- What was told of an hour by each number, so that an amount that Stripe takes and refuses later can be told anew though others
-- were told after it: element N + 1 is that of number N, 0 where it counts as not told.
ALTER TABLE export_hours ADD COLUMN amounts numeric[] NOT NULL DEFAULT '{}';
UPDATE export_hours SET amounts[n] = last WHERE n > 0 AND last IS NOT NULL;
COMMENT ON COLUMN export_hours.amounts IS 'What was told by each number: element N + 1 is that of number N, 0 where it counts as not told.';
COMMENT ON COLUMN export_hours.last IS 'The amount that was told last; only releases before amounts was there read it.';
