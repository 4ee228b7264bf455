"""Reranks: documents ordered by how well they answer a query, as Cohere, Voyage, Jina and their likes serve it.

dialect   the request, its bounds and the answer's usage; declared  its paths
"""
