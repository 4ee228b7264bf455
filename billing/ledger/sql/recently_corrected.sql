SELECT DISTINCT account_id FROM corrections WHERE created_at > now() - $1 * interval '1 second'
