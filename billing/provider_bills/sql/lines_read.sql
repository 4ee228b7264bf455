-- The lines of a provider from one source, of the days from $3 on and before $4; of the keys $5 alone, where some are named, and
-- of no key.
SELECT day, model, key, line, requests, input_tokens, output_tokens, amount_nano
FROM provider_bill_lines
WHERE provider = $1 AND source = $2 AND day >= $3 AND day < $4 AND (cardinality($5::text[]) = 0 OR key = '' OR key = ANY($5))
