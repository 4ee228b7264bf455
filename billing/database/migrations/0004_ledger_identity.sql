-- What tells this ledger from a copy of it, so that a Redis that knows more than a ledger restored from a backup is found
-- out: a server or database of another identity, and a count that goes back with the data.

ALTER TABLE installation ADD COLUMN beat bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN installation.beat IS
    'Counted on by every gateway each second, and noted in Redis now and then: a ledger that was set back has counted less.';

-- The cluster, its timeline (another one after a recovery to a point in time, and after a failover), the database and a
-- table of it (others where a dump was restored). What a managed server does not say is left out.
CREATE FUNCTION ledger_identity() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    cluster text := '';
    timeline text := '';
BEGIN
    BEGIN
        SELECT system_identifier::text INTO cluster FROM pg_control_system();
    EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
        NULL;
    END;
    BEGIN
        timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
    EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported
        OR object_not_in_prerequisite_state THEN
        NULL;
    END;
    RETURN concat_ws('.', cluster, timeline,
        (SELECT oid FROM pg_database WHERE datname = current_database()), 'partitions'::regclass::oid);
END $$;
