-- A debit that first came by the ledger's own way learns its place in Redis's sequence, once Redis is seen to have it.
UPDATE usage_events SET epoch = given.epoch, dseq = given.dseq
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS given (request_id, epoch, dseq)
WHERE usage_events.request_id = given.request_id AND usage_events.dseq IS NULL
