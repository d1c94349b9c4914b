"""relay/transport/dial.py in closed networks: real proxies, TLS with an authority of its own.

Each way to fail has a name that says what to do, and no secret in it.
"""

from __future__ import annotations

import asyncio
import ssl

import pytest

from relay.telemetry.metrics import Metrics
from relay.transport import dial as dial_module
from relay.transport.connection import Connection
from relay.transport.dial import FAILURES, PER_SECOND, DialFailed, Dialler, LimitedDial
from relay.transport.send_queue import SendQueue
from tests.closed_network import (
    PASSWORD,
    Authority,
    agent_with,
    egress_of,
    socks_proxy,
    stern_server,
)

KEY = "the-real-key"


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other"))


def make_dialler(port, *, name="agent.example", scheme="wss", **variables):
    url = f"{scheme}://{name}:{port}/v1/agent/converse"
    return Dialler(
        url,
        lambda: KEY,
        ping_seconds=5,
        seconds=5,
        max_message_bytes=1 << 20,
        egress=egress_of(**variables),
    )


async def dial(port, **how):
    """Dial and hang up; True when it opened."""
    connection = Connection(SendQueue(1024), max_message_bytes=1 << 20)
    await make_dialler(port, **how).dial(connection)
    opened = connection.is_open
    connection.abort()
    return opened


async def failure(port, **how):
    with pytest.raises(DialFailed) as caught:
        await dial(port, **how)
    said = str(caught.value)
    for secret in (KEY, PASSWORD, "pass%3Aword", "clerk", "wrong-password"):
        assert secret not in said
    return said


async def test_the_agent_is_reached_through_an_http_proxy_with_credentials(authority, proxy):
    async with agent_with(authority.issue()) as (agent, port):
        ca = str(authority.file)
        assert await dial(port, RELAY_EGRESS_PROXY=proxy.url, RELAY_TLS_CA_FILE=ca)
        await agent.gone.wait()

        assert agent.headers["authorization"] == f"Token {KEY}"
        assert f"agent.example:{port}" in agent.headers["host"]


async def test_the_agent_is_reached_through_a_proxy_that_speaks_tls(authority, secure_proxy):
    async with agent_with(authority.issue()) as (agent, port):
        ca = str(authority.file)
        assert await dial(port, HTTPS_PROXY=secure_proxy.url, RELAY_TLS_CA_FILE=ca)
        await agent.gone.wait()


async def test_the_agent_is_reached_through_a_socks_proxy_that_knows_its_name(authority):
    async with socks_proxy() as proxy, agent_with(authority.issue()) as (agent, port):
        ca = str(authority.file)
        assert await dial(port, ALL_PROXY=proxy.url, RELAY_TLS_CA_FILE=ca)
        await agent.gone.wait()

        assert proxy.asked == [("agent.example", port)]


async def test_an_agent_without_tls_is_reached_through_both(proxy):
    async with socks_proxy() as socks, agent_with(None) as (agent, port):
        assert await dial(port, scheme="ws", RELAY_EGRESS_PROXY=proxy.url)
        assert await dial(port, scheme="ws", RELAY_EGRESS_PROXY=socks.url)

        assert len(agent.connections) == 2


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_a_dial_that_is_given_up_leaves_no_socket_at_a_proxy_that_says_nothing(scheme):
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader, writer):
        await reader.read(1)
        arrived.set()
        while await reader.read(4096):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        task = asyncio.create_task(dial(1, RELAY_EGRESS_PROXY=url))
        async with asyncio.timeout(5):
            await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await gone.wait()


async def test_wrong_credentials_are_named(proxy):
    wrong = proxy.url_for("clerk:wrong-password")
    async with socks_proxy() as socks:
        socks_wrong = f"socks5://clerk:wrong-password@127.0.0.1:{socks.port}"
        for url in (wrong, socks_wrong):
            said = await failure(1, RELAY_EGRESS_PROXY=url)
            assert said.startswith("proxy_auth: "), url


async def test_a_proxy_that_does_not_let_pass_is_named():
    async with socks_proxy() as socks:
        said = await failure(1, name="elsewhere.test", RELAY_EGRESS_PROXY=socks.url)

        assert said.startswith("proxy_refused: ")


async def test_a_proxy_that_is_not_there_is_named():
    for scheme in ("http", "socks5"):
        said = await failure(1, RELAY_EGRESS_PROXY=f"{scheme}://clerk:{'x' * 9}@127.0.0.1:1")

        assert said.startswith("proxy_unreachable: ")


async def test_an_authority_that_is_not_known_is_named(authority, other_authority, proxy):
    async with agent_with(authority.issue()) as (_, port):
        for variables in ({}, {"RELAY_TLS_CA_FILE": str(other_authority.file)}):
            said = await failure(port, RELAY_EGRESS_PROXY=proxy.url, **variables)
            assert said.startswith("tls_untrusted: ")
            assert "RELAY_TLS_CA_FILE" in said


async def test_an_expired_certificate_is_named(authority, proxy):
    async with agent_with(authority.issue(expired=True)) as (_, port):
        ca = str(authority.file)
        said = await failure(port, RELAY_EGRESS_PROXY=proxy.url, RELAY_TLS_CA_FILE=ca)

        assert said.startswith("tls_expired: ")


async def test_a_certificate_for_another_name_is_named(authority):
    async with agent_with(authority.issue("other.example")) as (_, port):
        said = await failure(port, name="localhost", RELAY_TLS_CA_FILE=str(authority.file))

        assert said.startswith("tls_name: ")


async def test_a_tls_version_that_is_too_old_is_named(authority):
    tls = authority.issue("localhost")
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    with stern_server(tls) as port:
        ca = {"RELAY_TLS_CA_FILE": str(authority.file)}
        said = await failure(port, name="localhost", RELAY_TLS_MIN_VERSION="1.3", **ca)

        assert said.startswith("tls_version: ")


async def test_a_client_certificate_is_shown_to_an_agent_that_wants_one(authority, other_authority):
    tls = authority.issue("localhost", client_of=other_authority)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # there the refusal is a part of the handshake
    chain, key = other_authority.issue_files("relay.example")
    ca = {"RELAY_TLS_CA_FILE": str(authority.file)}
    mine = {"RELAY_TLS_CERT_FILE": str(chain), "RELAY_TLS_KEY_FILE": str(key)}
    async with agent_with(tls) as (_, port):
        assert await dial(port, name="localhost", **ca, **mine)
    with stern_server(tls) as port:
        assert (await failure(port, name="localhost", **ca)).startswith("tls_client: ")


async def test_no_tls_where_it_is_expected_is_named():
    with stern_server() as port:
        assert (await failure(port, name="localhost")).startswith("tls: ")


async def test_a_name_that_nobody_knows_and_a_closed_port_are_named():
    assert (await failure(1, name="nowhere.invalid")).startswith("dns: ")
    assert (await failure(1, name="localhost")).startswith("refused: ")


# --- the dials of all sessions -------------------------------------------------------------------


class Outage:
    """Agents that answer or do not; `dial` is limited, `tries` are those that went out."""

    def __init__(self, monkeypatch):
        self.now, self.tries, self.answers = 0.0, 0, False
        monkeypatch.setattr(dial_module, "monotonic", lambda: self.now)
        self._limited = LimitedDial(self._try, Metrics())

    async def _try(self, connection):
        self.tries += 1
        if not self.answers:
            raise DialFailed("refused: as the test says", 503, b"body", 2.0)

    async def dial(self, times):
        """Dial so often; the last failure."""
        last = None
        for _ in range(times):
            try:
                await self._limited.dial(None)
            except DialFailed as error:
                last = error
        return last


async def test_dials_are_limited_when_the_last_ones_all_failed(monkeypatch, caplog):
    outage = Outage(monkeypatch)
    await outage.dial(FAILURES)
    assert caplog.text.count("dials_limited") == 1

    for second in (1, 2):
        outage.now, outage.tries = float(second), 0
        failed = await outage.dial(100)
        assert outage.tries == PER_SECOND
        assert str(failed).startswith("not dialled, too many failed: refused: ")
        assert (failed.status, failed.body, failed.retry_after) == (503, b"body", 2.0)
    assert caplog.text.count("dials_limited") == 1, "it is limited already"


async def test_one_that_gets_through_ends_the_limit(monkeypatch, caplog):
    outage = Outage(monkeypatch)
    await outage.dial(FAILURES)
    outage.answers = True

    assert await outage.dial(100) is None
    assert outage.tries == FAILURES + 100
    assert caplog.text.count("dials_recovered") == 1


async def test_failures_are_counted_in_a_row(monkeypatch, caplog):
    outage = Outage(monkeypatch)
    for _ in range(3):
        outage.answers = False
        await outage.dial(FAILURES - 1)
        outage.answers = True
        await outage.dial(1)

    assert "dials_limited" not in caplog.text
