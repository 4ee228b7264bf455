"""Postgres over TLS by its URL: who is asked is who was meant, and nothing goes over the wire in the open.

The embedded server's build has no TLS: something in front of it ends it, as the server itself would by the protocol
(Postgres documentation, "Message Flow": SSL Session Encryption).
"""

import asyncio
import shutil
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from billing.database.connection import Database, DatabaseUnavailable

SSL_REQUEST = struct.pack("!II", 8, 80877103)


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A key and a certificate for a host, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificate with openssl, which is not installed")
    key, certificate = folder / f"{host}.key", folder / f"{host}.pem"
    what = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}"]
    files = ["-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *what, *files], check=True, capture_output=True, timeout=60)
    return key, certificate


@asynccontextmanager
async def behind_tls(database_url: str, key: Path, certificate: Path) -> AsyncIterator[int]:
    """The port of a Postgres that takes TLS and nothing else."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    socket = f"{parse_qs(urlsplit(database_url).query)['host'][0]}/.s.PGSQL.5432"
    tasks = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        tasks.add(task)
        with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            if await reader.readexactly(8) == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                to_reader, to_writer = await asyncio.open_unix_connection(socket)
                await asyncio.gather(pass_on(reader, to_writer), pass_on(to_reader, writer))
        writer.close()
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_url_says_whose_certificate_is_believed(database_url, tmp_path):
    key, signer = make_certificate(tmp_path, "localhost")
    _, stranger = make_certificate(tmp_path, "stranger")
    name = urlsplit(database_url).path
    async with behind_tls(database_url, key, signer) as port:

        def url(mode, root=None, host="localhost"):
            believed = f"&sslrootcert={root}" if root is not None else ""
            return f"postgresql://metergate:swordfish@{host}:{port}{name}?sslmode={mode}{believed}"

        for allowed in (url("verify-full", signer), url("require")):
            database = Database(allowed, size=1)
            assert await database.value("SELECT 1") == 1
            await database.close()
        refused = {
            "another signer": url("verify-full", stranger),
            "another host": url("verify-full", signer, "127.0.0.1"),
            "no TLS": url("disable"),
        }
        for why, wrong in refused.items():
            database = Database(wrong, size=1)
            with pytest.raises(DatabaseUnavailable) as error:
                await database.value("SELECT 1")
            assert "swordfish" not in str(error.value), why
            await database.close()
