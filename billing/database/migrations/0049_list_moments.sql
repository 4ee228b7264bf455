-- Whether a row was written by what a snapshot sees. Of a row (xmin) Postgres says the lower half of its transaction's number: the
-- whole one is the nearest to the snapshot's end, which is right for rows of the two thousand million transactions around it.
CREATE FUNCTION seen_in(writer xid, moment pg_snapshot) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT pg_visible_in_snapshot(greatest(ended - ((ended - writer::text::bigint + 2147483648) % 4294967296
        + 4294967296) % 4294967296 + 2147483648, 3)::text::xid8, moment)
    FROM (SELECT pg_snapshot_xmax(moment)::text::bigint) AS the_end (ended)
$$;
