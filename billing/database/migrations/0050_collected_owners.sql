-- Whose subjects were before.
CREATE TABLE collected_owners (
    subject bigint NOT NULL REFERENCES collected_subjects,
    until timestamptz NOT NULL,
    account_id text NOT NULL REFERENCES accounts,
    PRIMARY KEY (subject, until)
);
CREATE INDEX collected_owners_account ON collected_owners (account_id);
COMMENT ON TABLE collected_owners IS 'What was counted of a subject before the minute until, and not before an earlier one, is of this account.';
