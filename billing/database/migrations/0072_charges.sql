-- Payments of all accounts, newest first: what customers were charged is listed and summed by the time of the payment.
CREATE INDEX payment_objects_payments ON payment_objects (created_at, id) WHERE kind = 'payment';
