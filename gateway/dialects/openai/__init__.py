"""OpenAI's API: chat completions, completions, embeddings, moderations. What it declares stands here: headers, and what
Azure's and other vendors' servers of the same format add to them.

dialect    the request: what it asks for at most, and the few top-level fields that the gateway changes; the paths of
           each operation, also those of Azure's client; the envelope of errors
vendors    what is usual for servers of this format, and their models
messages   input that is not text, or not in the body; what a model reads, and which texts become tokens by themselves
work       what a provider does beside one call of the model named; which tools run there
answer     what was used, by class, what a provider says that it charged, and searches, billed beside tokens; what was
           written; events  a stream's events
"""

from typing import Final

from gateway.dialects.declarations import Declarations

OPENAI: Final = Declarations(
    key_headers=("api-key",),  # of Azure's client
    paths=("/v1/", "/openai/", "/azure/"),
    sent_headers=("openai-beta",),
    sent_prefixes=("x-stainless-",),  # what its SDKs say of themselves
    browser_headers=("openai-organization", "openai-project"),
    betas={"openai-beta": {"responses_multi_agent": "refuse"}},  # several agents that work at once
    answer_headers=(  # ids and times, which the vendors' support asks for
        "apim-request-id",
        "openai-model",
        "openai-processing-ms",
        "openai-version",
        "x-envoy-upstream-service-time",
        "x-generation-id",
        "x-ms-request-id",
    ),
    renamed_prefixes=("x-ratelimit-",),
    request_id_headers=("x-request-id",),
    provider_paths={"openai": ""},
    key_required=False,  # a server of one's own may want none
)
