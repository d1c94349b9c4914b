"""A Postgres as one meets it outside: over TCP, with passwords and TLS; and poolers that refuse.

The embedded server of the other tests is behind a socket and trusts everybody.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager, contextmanager

import asyncpg

from control.dev.postgres import EmbeddedPostgres
from loadtests.processes import free_port
from tests.conftest import FORGETFUL

HBA = """
local  all     all                trust
host   closed  all  127.0.0.1/32  reject
host   all     all  127.0.0.1/32  scram-sha-256
"""
TLS_REQUEST = 80877103


class SecurePostgres:
    """`url(user, password, database)`; `sockets` is its folder of sockets."""

    def __init__(self, server, port, sockets, authority):
        self.server = server
        self.port = port
        self.sockets = sockets
        self.authority = authority

    @property
    def place(self):
        return f"127.0.0.1:{self.port}"

    def url(self, user, password, database, query=""):
        """With the parts as they are given: escape them."""
        return f"postgresql://{user}:{password}@{self.place}/{database}{query}"

    async def run(self, *statements, database="postgres"):
        """As the superuser."""
        connection = await asyncpg.connect(
            host=str(self.sockets), port=self.port, user="postgres", database=database
        )
        try:
            for statement in statements:
                found = await connection.fetch(statement)
        finally:
            await connection.close()
        return found


@contextmanager
def secure_postgres(folder, authority):
    """It asks for passwords over TCP and lets nobody into `closed`; the socket trusts."""
    port = free_port()
    parameters = (*FORGETFUL, "listen_addresses=127.0.0.1", f"port={port}", "max_connections=40")
    server = EmbeddedPostgres(folder, parameters=parameters)
    url = server.start()
    try:
        (server.data / "pg_hba.conf").write_text(HBA)
        sockets = url.partition("host=")[2].partition("&")[0].replace("%2F", "/")
        secure = SecurePostgres(server, port, sockets, authority)
        asyncio.run(secure.run("SELECT pg_reload_conf()", "CREATE DATABASE closed"))
        yield secure
    finally:
        server.stop()


@asynccontextmanager
async def tls_before(secure, name="127.0.0.1"):
    """TLS before that server, whose build has none, with a certificate for `name`: host:port."""
    context = secure.authority.issue(name)

    async def pass_on(reader, writer):
        try:
            if (await reader.readexactly(8))[4:] != struct.pack("!I", TLS_REQUEST):
                return  # as `hostssl` does, without its words
            writer.write(b"S")
            await writer.start_tls(context)
            inner_reader, inner = await asyncio.open_connection("127.0.0.1", secure.port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, inner))
                tasks.create_task(_pump(inner_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever connected did not like us
        finally:
            writer.close()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def refusing_pooler(message, code="XX000"):
    """It answers every start with FATAL, as poolers do; yields host:port."""

    async def answer(reader, writer):
        try:
            while True:
                (length,) = struct.unpack("!I", await reader.readexactly(4))
                body = await reader.readexactly(length - 4)
                if struct.unpack("!I", body[:4])[0] != TLS_REQUEST:  # a request for TLS
                    break
                writer.write(b"N")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        fields = f"SFATAL\0VFATAL\0C{code}\0M{message}\0\0".encode()
        writer.write(b"E" + struct.pack("!I", len(fields) + 4) + fields)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
