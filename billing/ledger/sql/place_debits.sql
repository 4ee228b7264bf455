-- Store the sequence number that Redis gave to a debit that was written to Postgres before Redis had confirmed it.
UPDATE usage_events SET epoch = given.epoch, dseq = given.dseq
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS given (request_id, epoch, dseq)
WHERE usage_events.request_id = given.request_id AND usage_events.dseq IS NULL
