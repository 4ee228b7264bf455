INSERT INTO payment_movements (provider, kind, id, order_id, amount_cents, moved_nano, transfers, free_nano)
VALUES ($1, $2, $3, $4, $5, $6, 1, $7)
ON CONFLICT (provider, kind, id) DO UPDATE SET
    moved_nano = payment_movements.moved_nano + excluded.moved_nano, transfers = payment_movements.transfers + 1,
    free_nano = least(payment_movements.free_nano, excluded.free_nano)
