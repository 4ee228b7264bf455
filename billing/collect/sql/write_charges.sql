-- $1 accounts and $2 what they were charged in all; bytes by price: $3 account, $4 price, $5 rate, $6 bytes.
WITH charged AS (
    UPDATE collected_accounts AS a SET charged_nano = g.charged_nano
    FROM unnest($1::text[], $2::numeric[]) AS g (account_id, charged_nano) WHERE a.account_id = g.account_id
)
INSERT INTO collected_charges AS c (account_id, price, rate_scaled, bytes)
SELECT * FROM unnest($3::text[], $4::text[], $5::numeric[], $6::numeric[])
ON CONFLICT (account_id, price) DO UPDATE SET bytes = excluded.bytes
