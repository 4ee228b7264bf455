"""What OpenAI's API declares: headers, and what Azure's and other vendors' servers of the same format add to them."""

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
