-- Lock the subject $2 of the issuer $1, so that one transaction at a time makes or links it.
SELECT pg_advisory_xact_lock(hashtextextended($1 || chr(10) || $2, 0))
