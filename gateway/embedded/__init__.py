"""Real Postgres and Redis from wheels, for `metergate up`, for commands on its data folder, and for the tests.

    servers     EmbeddedServers: both, for as long as a context is open; `running`: those of another process
    keeper      one server: started, watched, started again, stopped
    process     one child process; orphans of a killed parent
    launch      the script between us and a server: ends with its parent, changes its user
    postgres    the first database, settings, readiness; redis: the same
    folders     where a data folder's parts lie and who may enter them
    account     the user that Postgres runs as; binaries: the programs, copied where that user can't run them
    lock        one process per data folder; errors: what can go wrong, in sentences

Standard library only: how to speak to the servers is for others to know.
"""

from gateway.embedded.errors import AlreadyRunning, EmbeddedServersError, ServerFailed
from gateway.embedded.servers import EmbeddedServers, Endpoints, running

__all__ = ["AlreadyRunning", "EmbeddedServers", "EmbeddedServersError", "Endpoints", "ServerFailed", "running"]
