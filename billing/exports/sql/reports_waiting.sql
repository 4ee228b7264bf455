-- Reports of provider $1 that meters have refused events, which nobody has looked into.
SELECT id FROM payment_events
WHERE provider = $1 AND type = 'billing.meter.error_report_triggered' AND state = 'ignored' AND livemode = $2
ORDER BY number LIMIT 10
