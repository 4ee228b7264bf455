-- Return how many rows of each kind the verification reads.
SELECT
    (SELECT count(*) FROM accounts) AS accounts,
    (SELECT count(*) FROM lots) AS lots,
    (SELECT count(*) FROM transfers) AS transfers,
    (SELECT count(*) FROM usage_events) AS events,
    (SELECT count(*) FROM usage_sums) + (SELECT count(*) FROM usage_fresh) AS rollups,
    (SELECT count(*) FROM usage_months_dropped) AS dropped,
    (SELECT count(*) FROM usage_by_account) + (SELECT count(*) FROM usage_by_model) AS of_all,
    (SELECT count(*) FROM usage_by_names) AS by_names
