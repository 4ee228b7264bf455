"""Behaviour that users see, pinned in files: a change of one is read as a diff.

    openapi.json    the OpenAPI document
    help.txt        what `--help` of every command prints
    schema.sql      the schema of a migrated database, as `pg_dump` writes it
    refusals.txt    every refusal of the proxy on the wire, in the envelope of every dialect

`python -m tests.golden` writes them anew.
"""
