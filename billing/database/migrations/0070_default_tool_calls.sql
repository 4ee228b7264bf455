-- How many calls of tools at the provider a key's requests may have that leave them open; null: as the account's plan says.
ALTER TABLE api_keys ADD COLUMN default_tool_calls integer CHECK (default_tool_calls > 0);
