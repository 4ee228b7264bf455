SELECT count(*) FROM service_holds WHERE state = 'held'
