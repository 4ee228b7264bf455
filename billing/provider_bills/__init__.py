"""What providers say that they have billed, compared with what the ledger's requests have cost.

lines     lines of a bill, read from APIs' answers or an invoice's CSV, and compared with our days and models       pure
bills     Bills: fetched page by page over HTTP, kept, compared with the ledger, with notices of differences
"""
