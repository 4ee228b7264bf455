UPDATE collected_subjects SET parked = true WHERE id = ANY ($1::bigint[]) AND account_id IS NULL
