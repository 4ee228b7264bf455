-- What refunds take is decided by what was unspent of their purchase, which no debt that a dispute makes tells any more.
ALTER TABLE payment_movements ADD COLUMN free_nano bigint;
COMMENT ON COLUMN payment_movements.free_nano IS
    'What would have been left of the purchase when this moved, had no refund and no dispute of it moved anything.';
