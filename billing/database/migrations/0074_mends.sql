-- Times at the ends of Python's calendar were stored as infinity, which no list could show. Texts are now read as the
-- nearest time between these two (billing/times.py). NOT VALID: what is there was mended just now.
UPDATE lots SET expires_at = CASE WHEN expires_at = 'infinity' THEN timestamptz '9998-12-31 00:00Z'
    ELSE timestamptz '0002-01-01 00:00Z' END WHERE NOT isfinite(expires_at);
UPDATE coupons SET expires_at = CASE WHEN expires_at = 'infinity' THEN timestamptz '9998-12-31 00:00Z'
    ELSE timestamptz '0002-01-01 00:00Z' END WHERE NOT isfinite(expires_at);
UPDATE api_keys SET expires_at = CASE WHEN expires_at = 'infinity' THEN timestamptz '9998-12-31 00:00Z'
    ELSE timestamptz '0002-01-01 00:00Z' END WHERE NOT isfinite(expires_at);
ALTER TABLE lots ADD CONSTRAINT lots_expires_at_finite CHECK (isfinite(expires_at)) NOT VALID;
ALTER TABLE coupons ADD CONSTRAINT coupons_expires_at_finite CHECK (isfinite(expires_at)) NOT VALID;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_expires_at_finite CHECK (isfinite(expires_at)) NOT VALID;
UPDATE payment_comparisons SET asked_since = timestamptz '0002-01-01 00:00Z' WHERE NOT isfinite(asked_since);
UPDATE payment_comparisons SET since = timestamptz '0002-01-01 00:00Z' WHERE NOT isfinite(since);

-- Who owned an account when it redeemed a coupon: whoever gives the organization away has had the coupon all the same.
CREATE TABLE coupon_owners (
    coupon_id text NOT NULL,
    user_id text NOT NULL,
    account_id text NOT NULL,
    PRIMARY KEY (coupon_id, user_id, account_id),
    FOREIGN KEY (coupon_id, account_id) REFERENCES coupon_redemptions
);
INSERT INTO coupon_owners (coupon_id, user_id, account_id)
SELECT r.coupon_id, m.user_id, r.account_id FROM coupon_redemptions r
JOIN organizations o ON o.account_id = r.account_id
JOIN memberships m ON m.org_id = o.id AND m.role = 'owner';

-- What cursors are sealed with that carry a balance: a client can't make one that shows another balance than the ledger's.
ALTER TABLE installation ADD COLUMN cursor_secret bytea NOT NULL
    DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));

-- Mails of invitations in the last 24 hours, whatever organization sent them: to whom, and by whom.
CREATE TABLE invitation_mails (
    email text NOT NULL,
    sent_by text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX invitation_mails_to ON invitation_mails (email, sent_at);
CREATE INDEX invitation_mails_by ON invitation_mails (sent_by, sent_at);
CREATE INDEX invitation_mails_at ON invitation_mails (sent_at);
INSERT INTO invitation_mails (email, sent_by, sent_at)
SELECT email, invited_by, created_at FROM invitations
WHERE created_at > now() - interval '24 hours' AND invited_by IS NOT NULL;
