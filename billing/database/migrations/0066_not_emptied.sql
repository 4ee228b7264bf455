-- What is append-only is not emptied either. TRUNCATE fires no row's trigger, and for a partition not that of the table
-- which it belongs to: each has one of its own. A month is still dropped as a whole once its sums are proved.
CREATE TRIGGER prices_no_truncate BEFORE TRUNCATE ON prices
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION refuse_truncate_of(month regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Made once: making it again would wait for whoever writes to the month.
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = month AND tgname = 'usage_events_no_truncate') THEN
        EXECUTE format('CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', month);
    END IF;
END $$;

SELECT refuse_truncate_of(inhrelid) FROM pg_inherits WHERE inhparent = 'usage_events'::regclass;

CREATE OR REPLACE FUNCTION create_usage_months(first date, months integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    start date := date_trunc('month', first);
    ends date;
    month text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('metergate usage months'));
    FOR i IN 1..months LOOP
        ends := start + interval '1 month';
        month := 'usage_events_' || to_char(start, 'YYYY_MM');
        EXECUTE format(
            'CREATE TABLE IF NOT EXISTS %I PARTITION OF usage_events FOR VALUES FROM (%L) TO (%L)',
            month, start || ' 00:00:00+00', ends || ' 00:00:00+00');
        PERFORM refuse_truncate_of(month::regclass);
        start := ends;
    END LOOP;
END $$;
