"""SCIM 2.0 (RFC 7643, RFC 7644): an organization's directory keeps its people and groups here.

attributes  what a user and a group have, as schemas say it and as values are checked and read         pure
filters     the language of filters and of paths: read, and evaluated on a resource                     pure
patches     changes of a resource by PATCH, as Okta and Entra send them, too                            pure
directory   Directory: people and groups in Postgres, and what their changes do to members and keys
tokens      ScimTokens: what a directory shows when it calls
service     Scim: all of that, and how often and how many at a time an organization may call

Own code, because the libraries for this (scim2-models, scim2-server) work on pydantic: a worker would take 29 MiB and
two seconds on its event loop for them. They test it instead.
"""
