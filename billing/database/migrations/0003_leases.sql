-- A gateway's lease is renewed by giving lease_until another value; whether it is dead is judged by how long that value
-- has stood, by the judge's own clock, and not by what it says.
ALTER TABLE gateways ADD COLUMN judged timestamptz, ADD COLUMN ended_at timestamptz;
COMMENT ON COLUMN gateways.lease_until IS 'Another value with each renewal. The time itself is for people to read.';
COMMENT ON COLUMN gateways.judged IS
    'The lease_until at which other gateways last ended holds of this one. It sees a new value here when it wakes.';
COMMENT ON COLUMN gateways.ended_at IS 'Its process has ended, as it said itself or its supervisor did.';
