-- Store where the batch of export $1 after number $2 ends, unless that is stored.
UPDATE exports SET claimed = $3 WHERE name = $1 AND wseq = $2 AND claimed IS NULL RETURNING claimed
