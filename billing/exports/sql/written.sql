-- The last number that was drawn. To be asked before mark.sql.
SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM usage_written
