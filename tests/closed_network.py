"""What stands between us and the agent in a closed network: proxies, TLS with an authority of its
own. All of it is real: proxy.py in a process of its own, a SOCKS5 server, certificates by trustme.

Names that end with `.example` are known to the proxies alone.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trustme
from websockets.asyncio.server import serve

from config.settings import STAND_INS, from_environment
from relay.transport.egress import Egress
from tests.relay.wires import Agent

ROOT = Path(__file__).parents[1]
USER, PASSWORD = "clerk", "pass:word/1"
CREDENTIALS = "clerk:pass%3Aword%2F1"


MOCKED = {"RELAY_AUTH": "mock"}


def settings_of(**variables):
    return from_environment(STAND_INS | MOCKED | variables)


def egress_of(**variables):
    return Egress(settings_of(**variables))


class Authority:
    """A private authority; `file` is its certificate."""

    def __init__(self, folder):
        self.ca = trustme.CA()
        self.folder = Path(folder)
        self.file = self.folder / "authority.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def issue(self, name="agent.example", *, expired=False, client_of=None, oldest=None):
        """The TLS context of a server; `client_of`: the authority of the clients that it takes."""
        ends = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        begins = ends - datetime.timedelta(days=30)
        times = {"not_before": begins, "not_after": ends} if expired else {}
        certificate = self.ca.issue_cert(name, **times)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        if oldest:
            context.minimum_version = oldest
        if client_of is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_of.file)
        return context

    def issue_files(self, name):
        """Certificate and key as two files."""
        issued = self.ca.issue_cert(name)
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return chain, key


@asynccontextmanager
async def agent_with(tls, **more):
    """An agent behind this TLS; yields it and its port."""
    agent = Agent()
    port = more.pop("port", 0)
    async with serve(agent.handle, "127.0.0.1", port, ssl=tls, compression=None, **more) as server:
        yield agent, server.sockets[0].getsockname()[1]


@contextmanager
def stern_server(tls=None):
    """It says why it does not like a handshake, which asyncio's TLS forgets; yields its port.

    Without `tls` it answers everything as HTTP servers do to what they do not understand.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        while True:
            try:
                opened, _ = listener.accept()
            except OSError:
                return  # closed
            try:
                opened.settimeout(5)
                if tls is None:
                    opened.recv(1024)
                    opened.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                else:
                    tls.wrap_socket(opened, server_side=True).close()
            except OSError:
                pass  # that was to be expected
            opened.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        listener.close()
        thread.join(10)


class HttpProxy:
    """proxy.py: `url` for whoever may pass."""

    def __init__(self, port, scheme, log_file):
        self.port = port
        self.scheme = scheme
        self._log_file = log_file
        self.url = self.url_for(CREDENTIALS)

    def url_for(self, credentials):
        return f"{self.scheme}://{credentials}@127.0.0.1:{self.port}"

    async def logs(self, text):
        """Wait until this is in its log, where a connection stands some time after its end."""
        async with asyncio.timeout(20):
            while text not in self._log_file.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@contextmanager
def http_proxy(tls=None):
    """Run it while inside; `tls` (certificate, key): it is spoken to over TLS."""
    with tempfile.TemporaryDirectory(prefix="relay-proxy-") as folder:
        port_file, log_file = Path(folder, "port"), Path(folder, "log")
        secure = ["--cert-file", str(tls[0]), "--key-file", str(tls[1])] if tls else []
        command = [
            *(sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", "0"),
            *("--port-file", str(port_file), "--num-workers", "1", "--num-acceptors", "1"),
            *("--basic-auth", f"{USER}:{PASSWORD}", "--plugins", "tests.proxy_names.Names"),
            *("--log-level", "INFO", "--log-file", str(log_file), *secure),
        ]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"HOME": folder},  # it makes a folder of its own there
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + 30
            while not (port_file.exists() and port_file.read_text().strip()):
                assert process.poll() is None, "proxy.py ended at once"
                assert time.monotonic() < until, "proxy.py did not start"
                time.sleep(0.02)  # it tells nobody but this file
            port = int(port_file.read_text())
            yield HttpProxy(port, "https" if tls else "http", log_file)
        finally:
            process.terminate()
            process.wait(10)


class Socks:
    """A SOCKS5 server with name and password (RFC 1928, 1929); `asked` is what it was asked for."""

    def __init__(self):
        self.asked = []
        self.port = 0
        self.over = False
        self._tasks = set()

    @property
    def url(self):
        return f"socks5h://{CREDENTIALS}@127.0.0.1:{self.port}"

    async def handle(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side has gone
        finally:
            writer.transport.abort() if self.over else writer.close()
            self._tasks.discard(asyncio.current_task())

    async def _serve(self, reader, writer):
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        if 2 not in methods:
            writer.write(b"\x05\xff")
            return
        writer.write(b"\x05\x02")
        _, length = await reader.readexactly(2)
        user = await reader.readexactly(length)
        (length,) = await reader.readexactly(1)
        password = await reader.readexactly(length)
        if (user.decode(), password.decode()) != (USER, PASSWORD):
            writer.write(b"\x01\x01")
            return
        writer.write(b"\x01\x00")
        _, _, _, kind = await reader.readexactly(4)
        assert kind == 3, "the name itself is asked for, not an address"
        (length,) = await reader.readexactly(1)
        host = (await reader.readexactly(length)).decode()
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append((host, port))
        if not host.endswith(".example"):
            writer.write(b"\x05\x04\x00\x01" + bytes(6))
            return
        there, out = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"\x05\x00\x00\x01" + bytes(6))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_copy(reader, out))
                tasks.create_task(_copy(there, writer))
        finally:
            out.transport.abort()


async def _copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # it has gone
    writer.close()


@asynccontextmanager
async def socks_proxy():
    proxy = Socks()
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.over = True
        for task in list(proxy._tasks):
            task.cancel()
        await asyncio.gather(*proxy._tasks, return_exceptions=True)
