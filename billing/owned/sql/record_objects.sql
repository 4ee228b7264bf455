-- Objects of one account each, as a JSON array ($1). One that is known stays its first account's; of its own account's it takes
-- the total that is known now. Returns what is the given account's.
INSERT INTO provider_objects AS known (object_id, provider, account_id, kind, model, total_tokens)
SELECT object_id, provider, account_id, kind, model, total_tokens
FROM jsonb_to_recordset($1::text::jsonb) AS given (
    object_id text, provider text, account_id text, kind text, model text, total_tokens bigint)
ON CONFLICT (object_id, provider) DO UPDATE
    SET total_tokens = coalesce(EXCLUDED.total_tokens, known.total_tokens)
    WHERE known.account_id = EXCLUDED.account_id
RETURNING object_id, provider
