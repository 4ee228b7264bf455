-- What the accounts $1 were charged so far, and their bytes by price; no price where there are none.
SELECT a.account_id, a.included_bytes, a.charged_nano, c.price, c.rate_scaled, c.bytes
FROM collected_accounts AS a LEFT JOIN collected_charges AS c USING (account_id)
WHERE a.account_id = ANY ($1::text[])
