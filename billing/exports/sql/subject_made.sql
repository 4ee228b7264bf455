INSERT INTO export_subjects (export, account_id) VALUES ($1, $2) ON CONFLICT DO NOTHING
