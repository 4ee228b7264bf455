-- Return what refunds and movements of disputes with these ids have moved so far.
SELECT kind, id, moved_nano, transfers, free_nano FROM payment_movements WHERE provider = $1 AND id = ANY ($2::text[])
