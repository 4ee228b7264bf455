INSERT INTO payment_movements (provider, kind, id, order_id, amount_cents, moved_nano, transfers)
VALUES ($1, $2, $3, $4, $5, $6, 1)
ON CONFLICT (provider, kind, id) DO UPDATE SET
    moved_nano = payment_movements.moved_nano + excluded.moved_nano, transfers = payment_movements.transfers + 1
