SELECT count(*) FROM payments_parked WHERE state = 'parked'
