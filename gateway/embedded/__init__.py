"""Real Postgres and Redis from wheels, for `metergate up`, for commands on its data folder, and for the tests.

    servers     Postgres and Redis: settings, readiness; EmbeddedServers: both, for as long as a context is open,
                started again when they die; `running`: those of another process
    process     one child process and its program, copied where its user can't run it; orphans of a killed parent
    launch      the script between us and a server: ends with its parent, changes its user
    folders     where a data folder's parts lie, which one process owns, and who may enter them; the user that Postgres
                runs as; what can go wrong, in sentences

Standard library only: how to speak to the servers is for others to know.
"""
