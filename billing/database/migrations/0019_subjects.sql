-- Whom another issuer signs in may have no address that is theirs for sure: addresses are proven, or they are none.

ALTER TABLE users ALTER COLUMN email DROP NOT NULL;
COMMENT ON COLUMN users.email IS 'In lower case; null for whom another issuer signs in and whose address nobody has proven.';
COMMENT ON COLUMN user_identities.email IS 'What the issuer says, proven or not: to reach somebody by, never to find a user by.';

-- What is deleted once it is over.
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX refresh_tokens_expiry ON refresh_tokens (expires_at);
