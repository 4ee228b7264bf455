-- Make export $1 of kind $2 known. It begins with what is written from now on or, where $3, with the first event that has a number.
INSERT INTO exports (name, kind, wseq)
SELECT $1, $2, CASE WHEN $3 THEN 0 ELSE (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM usage_written) END
ON CONFLICT DO NOTHING
