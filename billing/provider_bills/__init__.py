"""What providers say that they have billed, compared with what the ledger's requests have cost.

lines     lines of a bill, and how they are compared with our days and models                          pure
answers   lines of what OpenAI's, Anthropic's and OpenRouter's APIs answer, and of an invoice's CSV    pure
bills     Bills: fetched page by page over HTTP, kept, compared with the ledger, and told of where they differ
"""
