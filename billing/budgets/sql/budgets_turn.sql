-- Lock the making of an account's budgets until the transaction ends, so that their number is bounded.
SELECT pg_advisory_xact_lock(hashtext('metergate budgets'), hashtext($1))
