-- Gateways whose releases keep Redis's state in different layouts don't serve side by side: each says which one it keeps.
ALTER TABLE gateways ADD COLUMN IF NOT EXISTS layout int NOT NULL DEFAULT 1;
COMMENT ON COLUMN gateways.layout IS 'The version of the layout in which it keeps accounts and keys in Redis. 1: it says none.';
