"""What providers say that they have billed, compared with what the ledger's requests have cost.

lines     lines of a bill, and how they are compared with our days and models                          pure
answers   lines of what OpenAI's, Anthropic's and OpenRouter's APIs answer, and of an invoice's CSV    pure
fetching  one question to a provider, over HTTP
bills     Bills: fetched page by page, kept, compared with the ledger, and told of where they differ
"""
