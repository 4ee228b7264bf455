-- One at a time makes budgets of an account, so that they are bounded: until the transaction ends.
SELECT pg_advisory_xact_lock(hashtext('metergate budgets'), hashtext($1))
