-- Sums of bytes on their way to a charge have no bound: whoever counts as many as there are can't keep others' from being charged.
ALTER TABLE collected_growth ALTER COLUMN bytes TYPE numeric;
ALTER TABLE collected_due ALTER COLUMN bytes TYPE numeric;
