-- Return those of the addresses $2 that belong to no member of the organization of account $1.
SELECT address FROM unnest($2::text[]) AS address
WHERE NOT EXISTS (
    SELECT FROM organizations AS o JOIN memberships AS m ON m.org_id = o.id JOIN users AS u ON u.id = m.user_id
    WHERE o.account_id = $1 AND u.email = address
)
