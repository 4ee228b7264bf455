-- What was set aside may also be an entry of the journal in Redis that could not be read: its bytes are kept as they were.

ALTER TABLE debits_set_aside ADD COLUMN kind text NOT NULL DEFAULT 'debit' CHECK (kind IN ('debit', 'entry'));
COMMENT ON COLUMN debits_set_aside.kind IS
    'What the bytes in `debit` are: a debit as the journal has it in its entries, or a whole entry.';
