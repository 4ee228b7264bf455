"""Gemini's own API: generateContent, streamGenerateContent, embedContent, batchEmbedContents, countTokens. What it
declares stands here: headers, the key's places, and what its providers are known for.

dialect   the endpoints, and the few fields that the gateway changes; errors and the list of models, as Google's
          clients expect them
request   what a request asks for at most (output, candidates, tools, stored input), what its parts bring, and its
          objects, whose names have two spellings
answer    what an answer reports as used, and what was written in it
streams   the tap on a stream, and its pieces, of events or of one JSON array
"""

from typing import Final

from gateway.dialects.declarations import MORE_IN_TOTAL, Declarations

KEY: Final = "x-goog-api-key"
CLIENT: Final = "x-goog-api-client"
GEMINI: Final = Declarations(
    key_headers=(KEY,),
    key_parameter="key",
    provider_key=(KEY, ""),
    paths=("/v1/", "/v1beta/"),
    known_by=(CLIENT,),
    sent_headers=(CLIENT,),
    # Also as `$fields` (https://cloud.google.com/apis/docs/system-parameters).
    system_parameters=("fields", "fieldmask", "alt", "callback", "quotauser", "userproject"),
    # Google's OpenAI endpoint counts thinking in the total alone.
    explained_anomalies=frozenset({("total", MORE_IN_TOTAL)}),
    provider_paths={"gemini": "", "openai": "/v1beta/openai"},
    generates_media=True,  # https://ai.google.dev/gemini-api/docs/models
)
