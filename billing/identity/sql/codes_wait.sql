-- Seconds until one more code for an address ($1) may be asked for by a network ($2): until the oldest of the last hour
-- that counts is an hour old; null where one may be now. With $5 the address's own are those of this network.
SELECT ceil(extract(epoch FROM max(oldest) + interval '1 hour' - clock_timestamp()))::integer FROM (
    SELECT min(created_at) AS oldest, count(*) AS sent, $3::bigint AS most FROM one_time_codes
    WHERE email = $1 AND created_at > now() - interval '1 hour' AND ($5 IS NOT TRUE OR network = $2)
    UNION ALL
    SELECT min(created_at), count(*), $4 FROM one_time_codes
    WHERE network = $2 AND created_at > now() - interval '1 hour'
) counted WHERE sent >= most
