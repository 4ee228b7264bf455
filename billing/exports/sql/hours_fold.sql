-- Add amounts to the hours of export $1: account, meter, hour, amount.
INSERT INTO export_hours AS h (export, account_id, meter, hour, used)
SELECT $1, account_id, meter, hour, sum(amount)
FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::bigint[]) AS t (account_id, meter, hour, amount)
GROUP BY account_id, meter, hour
ORDER BY account_id, meter, hour
ON CONFLICT (export, account_id, meter, hour) DO UPDATE SET used = h.used + excluded.used
