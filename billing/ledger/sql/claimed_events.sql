-- Events of services that are known, by account $1 and id $2, side by side.
SELECT e.account_id, e.event_id, e.digest, e.answer, e.request_id
FROM unnest($1::text[], $2::text[]) AS asked (account_id, event_id) JOIN service_events AS e USING (account_id, event_id)
