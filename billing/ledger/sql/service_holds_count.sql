SELECT account_id, count(*) AS open FROM service_holds WHERE state = 'held' GROUP BY account_id
