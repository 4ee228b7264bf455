"""What reranks declare: the paths of Cohere's second version. All else is as OpenAI's."""

from typing import Final

from gateway.dialects.declarations import Declarations

RERANKS: Final = Declarations(paths=("/v1/", "/v2/"))
