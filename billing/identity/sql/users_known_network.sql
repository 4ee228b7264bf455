-- Whether who owns an address ($1) has signed in from a network ($2) of late.
SELECT EXISTS (
    SELECT FROM users JOIN sessions ON sessions.user_id = users.id
    WHERE users.email = $1 AND sessions.address = $2 AND sessions.created_at > now() - interval '90 days'
)
