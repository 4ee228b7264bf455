"""Real Postgres and Redis from wheels, for `metergate up`, for commands on its data folder, and for the tests.

    servers     EmbeddedServers: both, for as long as a context is open, started again when they die; `running`: those
                of another process
    process     one child process and its program, copied where its user can't run it; orphans of a killed parent
    launch      the script between us and a server: ends with its parent, changes its user
    stores      Postgres and Redis: the first database, settings, readiness
    folders     where a data folder's parts lie and who may enter them
    account     the user that Postgres runs as
    lock        one process per data folder; what can go wrong, in sentences

Standard library only: how to speak to the servers is for others to know.
"""
