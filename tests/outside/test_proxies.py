"""What proxies write into requests, and what they let pass."""

from __future__ import annotations

import asyncio
import socket

import pytest

from loadtests.systems_under_test import find
from tests.deploy.test_balancer import BALANCERS, balanced
from tests.outside.raw import API, ask, begin, connected, get, read_answer, upgrade


@pytest.fixture(params=BALANCERS)
def balancer(request):
    if find(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


PROTOCOLS = (
    (["X-Forwarded-Proto: https"], "wss"),
    (["X-Forwarded-Proto: https, http"], "wss"),
    (["X-Forwarded-Proto: https,http,http"], "wss"),
    (["X-Forwarded-Proto: https", "X-Forwarded-Proto: http"], "wss"),
    (["X-Forwarded-Proto:  HTTPS , http"], "wss"),
    (["X-Forwarded-Proto: wss"], "wss"),
    (["X-Forwarded-Proto: http, https"], "ws"),
    (["X-Forwarded-Proto: http"], "ws"),
    (["X-Forwarded-Proto: "], "ws"),
    (["X-Forwarded-Proto: gopher"], "ws"),
    ([], "ws"),
)


async def test_the_page_gets_the_scheme_that_its_browser_uses(stage):
    relay = stage.relay()
    await relay.start()
    for lines, scheme in PROTOCOLS:
        answer = await get(relay.port, f"{API}/session", "Content-Length: 0", *lines, method="POST")
        assert (lines, answer.status) == (lines, 201)
        assert answer.json["websocket_url"].startswith(f"{scheme}://127.0.0.1/"), lines
        is_told = "strict-transport-security" in answer.headers
        assert is_told is (scheme == "wss"), lines
    await stage.stop_relays()


TRUSTED = {
    "host bits": ("127.0.0.1", "127.3.2.1/8"),
    "IPv4 inside IPv6": ("::", "::ffff:127.0.0.1"),
    "a network of IPv4 inside IPv6": ("::", "::ffff:127.0.0.0/104"),
    "IPv4, and we listen on IPv6": ("::", "127.0.0.1"),
    "everything": ("::", "0.0.0.0/0, ::/0"),
}


@pytest.mark.parametrize(("listen", "trusted"), TRUSTED.values(), ids=TRUSTED)
async def test_a_proxy_is_trusted_however_its_network_is_written(stage, listen, trusted):
    if listen == "::" and not has_ipv6():
        pytest.skip("there is no IPv6 here")
    relay = stage.relay(
        RELAY_HOST=listen, RELAY_TRUSTED_PROXIES=trusted, RELAY_SESSIONS_PER_ADDRESS="1"
    )
    await relay.start()
    path, ticket = await begin(stage, relay)
    head = upgrade(path, ticket, "X-Forwarded-For: 203.0.113.7")
    async with asyncio.timeout(20), connected(relay.port) as (reader, writer):
        writer.write(head)
        assert (await read_answer(reader)).status == 101
        # Everybody else is somewhere else; who is there has one session and gets no other.
        for address, status in (
            ("203.0.113.8", 201),
            ("203.0.113.7", 429),
            ("203.0.113.7:55123", 429),
            ("[::ffff:203.0.113.7]:55123", 429),
            (" ,203.0.113.7 ,", 429),
            ("198.51.100.1, 203.0.113.7", 429 if "0.0.0.0/0" not in trusted else 201),
            ("2001:db8::7", 201),
        ):
            answer = await get(
                relay.port,
                f"{API}/session",
                "Content-Length: 0",
                f"X-Forwarded-For: {address}",
                method="POST",
            )
            assert (address, answer.status) == (address, status)
    await stage.stop_relays()


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


SPELLINGS = (
    "/metrics",
    "/metrics/",
    "//metrics",
    "///metrics",
    "/%6detrics",
    "/%6Detrics",
    "/metric%73",
    "/Metrics",
    "/METRICS",
    "/metrics;x",
    "/metrics;",
    "/./metrics",
    "/../metrics",
    "/x/../metrics",
    "/health/../metrics",
    "/metrics/.",
    "/metrics%2f",
    "/%2fmetrics",
    "/metrics%00",
    "/metrics%20",
    "/metrics?x=1",
    "/metrics//",
    "/metrics?",
    "/.//metrics",
    "http://127.0.0.1/metrics",
    "http://127.0.0.1//metrics",
)


async def test_metrics_are_not_public_however_their_path_is_spelled(
    stage, tmp_path_factory, balancer
):
    relays = [stage.relay(), stage.relay()]
    await asyncio.gather(*(relay.start() for relay in relays))
    async with balanced(balancer, tmp_path_factory.mktemp("balancer"), relays) as url:
        port = int(url.rpartition(":")[2])
        for spelling in SPELLINGS:
            for method in ("GET", "HEAD"):
                answer = await get(port, spelling, method=method)
                assert 400 <= answer.status < 500, (spelling, method)
                assert b"relay_" not in answer.body
        assert (await get(port, "/health/live")).status == 200
        assert (await get(port, "/")).status == 200
    await stage.stop_relays()


async def test_only_who_asks_directly_and_from_a_named_network_reads_metrics(stage):
    relay = stage.relay(RELAY_TRUSTED_PROXIES="10.0.0.0/8")
    far = stage.relay(RELAY_METRICS_NETWORKS="10.1.2.3")
    await asyncio.gather(relay.start(), far.start())
    port = relay.port

    assert b"relay_sessions_live" in (await get(port, "/metrics")).body
    assert (await get(port, "/metrics?x=1")).status == 200
    for line in (
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: https",
        "Forwarded: for=203.0.113.7",
        "X-Real-IP: 203.0.113.7",
        "Via: 1.1 proxy",
    ):
        assert (line, (await get(port, "/metrics", line)).status) == (line, 404)
    assert (await get(port, "/metrics", name="voice.example.com")).status == 404
    assert (await get(far.port, "/metrics")).status == 404
    # As through a proxy that writes nothing: every other spelling is not found.
    for spelling in SPELLINGS:
        if spelling.partition("?")[0].removeprefix("http://127.0.0.1") != "/metrics":
            assert (spelling, (await get(port, spelling)).status) in (
                (spelling, 400),
                (spelling, 404),
            )
    await stage.stop_relays()


async def test_a_path_has_one_spelling_for_the_websocket_too(stage):
    relay = stage.relay()
    await relay.start()
    path, ticket = await begin(stage, relay)
    for spelling in (
        f"/{path}",
        f"{path}/",
        path.replace("/voice/", "//voice/"),
        path.replace("/voice/", "/./voice/"),
        path.replace("/ws", "/%77s"),
        path.replace("/api/", "/api;x/"),
        path.replace("/api/", "/x/../api/"),
    ):
        answer = await ask(relay.port, upgrade(spelling, ticket))
        assert (spelling, answer.status, answer.json["code"]) == (spelling, 404, "not_found")
        assert "content-security-policy" in answer.headers
    assert (await ask(relay.port, upgrade(path, ticket))).status == 101
    await stage.stop_relays()
