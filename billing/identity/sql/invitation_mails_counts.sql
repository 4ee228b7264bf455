-- How many invitations were mailed in 24 hours by a person and to an address, of whatever organizations.
SELECT
    (SELECT count(*) FROM invitation_mails WHERE sent_by = $1 AND sent_at > now() - interval '24 hours') AS by_person,
    (SELECT count(*) FROM invitation_mails WHERE email = $2 AND sent_at > now() - interval '24 hours') AS to_address
