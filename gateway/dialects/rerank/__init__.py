"""Reranks: documents ordered by how well they answer a query, as Cohere, Voyage, Jina and their likes serve it.

dialect   the request, its bounds and the answer's usage

"""

from typing import Final

from gateway.dialects.declarations import Declarations

RERANKS: Final = Declarations(paths=("/v1/", "/v2/"))
