-- Where a session was begun elsewhere, and with an address of which domain: it is judged again when it is carried on.
ALTER TABLE sessions ADD COLUMN provider text, ADD COLUMN domain text;
COMMENT ON COLUMN sessions.domain IS 'Of the address that the provider has verified; null where it has verified none.';
