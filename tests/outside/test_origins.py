"""Pages of all kinds of origins, and names that lead here though they are not ours."""

from __future__ import annotations

import pytest

from tests.outside.raw import API, ask, begin, get, is_good, upgrade

ID = "chrome-extension://hglfomidogadbhelcfomenieknamjlmd"
WRAPPED = (
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "http://tauri.localhost",
    "https://localhost",
    ID,
    "moz-extension://3c1d2a44-7b6e-4f3e-9f53-0d3a1b5c9e2f",
    "safari-web-extension://4CC3D2D4-03F1-4B2A-9A3F-7F3B5B0F2A11",
    "app://obsidian.md",
    "app://.",
)

# Host, Origin, X-Forwarded-Proto (what a proxy on this machine says; none: it is not known).
SAME = (
    ("voice.example.com", "https://voice.example.com", "https"),
    ("voice.example.com:443", "https://voice.example.com", "https"),
    ("voice.example.com", "https://voice.example.com:443", "https"),
    ("voice.example.com:80", "http://voice.example.com", None),
    ("voice.example.com", "http://voice.example.com:80", "http"),
    ("voice.example.com:443", "https://voice.example.com", None),
    ("voice.example.com", "https://voice.example.com", None),
    ("voice.example.com:8443", "https://voice.example.com:8443", "https"),
    ("VOICE.example.com", "https://voice.EXAMPLE.com", "https"),
    ("voice.example.com.", "https://voice.example.com.", "https"),
    ("[::1]:8080", "http://[::1]:8080", None),
    ("[::1]", "http://[::1]:80", None),
    ("[0:0:0:0:0:0:0:1]", "https://[::1]", "https"),
)
OTHER = (
    ("voice.example.com", "http://voice.example.com", "https"),
    ("voice.example.com:80", "https://voice.example.com", "https"),
    ("voice.example.com:443", "http://voice.example.com", None),
    ("voice.example.com", "https://voice.example.com:8443", "https"),
    ("voice.example.com", "https://voice.example.com.evil.example", "https"),
    ("voice.example.com", "https://evil.example", None),
    ("voice.example.com", "null", None),
    ("localhost", "capacitor://localhost", None),
    ("localhost", "file://", None),
    ("voice.example.com", "https://user@voice.example.com", None),
    ("voice.example.com", "https://", None),
    ("voice.example.com", "voice.example.com", None),
    ("[::1]", "http://[::2]", None),
    ("", "https://", None),
)


def fields(host, origin, proto):
    lines = [f"Host: {host}", f"Origin: {origin}"]
    return lines + ([] if proto is None else [f"X-Forwarded-Proto: {proto}"])


@pytest.mark.timeout(120)
async def test_a_default_port_makes_no_other_origin(stage):
    relay = stage.relay(RELAY_SESSIONS_PER_ADDRESS="0")
    await relay.start()
    for same in SAME:
        path, ticket = await begin(stage, relay)
        answer = await ask(relay.port, upgrade(path, ticket, *fields(*same), drop=["host"]))
        assert (same, answer.status) == (same, 101)
        form = "\r\n".join((f"DELETE {path.removesuffix('/ws')} HTTP/1.1", *fields(*same), "", ""))
        assert (await ask(relay.port, form.encode())).status == 204, same
    path, ticket = await begin(stage, relay)
    for other in OTHER:
        answer = await ask(relay.port, upgrade(path, ticket, *fields(*other), drop=["host"]))
        assert (other, answer.status, answer.json["code"]) == (other, 403, "origin")
        form = "\r\n".join((f"DELETE {path.removesuffix('/ws')} HTTP/1.1", *fields(*other), "", ""))
        assert (await ask(relay.port, form.encode())).status == 403, other
    assert await is_good(relay, path, ticket)
    await stage.stop_relays()


async def test_the_page_of_a_wrapped_program_may_be_allowed(stage):
    relay = stage.relay(RELAY_ALLOWED_ORIGINS=", ".join((*WRAPPED, "https://a.example:443")))
    await relay.start()
    for origin in (*WRAPPED, "https://a.example"):
        path, ticket = await begin(stage, relay, Origin=origin)
        answer = await ask(relay.port, upgrade(path, ticket, f"Origin: {origin}"))
        assert (origin, answer.status) == (origin, 101)
        asked = await stage.http.options(
            f"{relay.url}{API}/session",
            headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
        )
        assert (origin, asked.status_code) == (origin, 204)
        assert asked.headers["access-control-allow-origin"] == origin
    path, ticket = await begin(stage, relay)
    for origin in ("capacitor://evil", "tauri://localhost:1", "https://a.example:444", "null"):
        answer = await ask(relay.port, upgrade(path, ticket, f"Origin: {origin}"))
        assert (origin, answer.status) == (origin, 403)
        read = await stage.http.get(f"{relay.url}/health/live", headers={"Origin": origin})
        assert "access-control-allow-origin" not in read.headers, origin
    await stage.stop_relays()


@pytest.mark.timeout(120)
async def test_a_name_that_is_not_ours_is_not_answered(stage):
    """DNS rebinding: a page of evil.example has made its name lead here, and is of our origin."""
    relay = stage.relay(RELAY_PUBLIC_URL="https://voice.example.com/base")
    await relay.start()
    port, own = relay.port, f"{API}/conversations"
    for name in ("voice.example.com", "Voice.Example.com:443", "voice.example.com.", "localhost"):
        assert (name, (await get(port, own, name=name)).status) == (name, 200)
    for name in (f"127.0.0.1:{port}", "[::1]", "127.0.0.1"):
        assert (name, (await get(port, own, name=name)).status) == (name, 200)
    path, ticket = await begin(stage, relay)
    for name in (
        "evil.example",
        f"evil.example:{port}",
        "voice.example.com.evil.example",
        "notvoice.example.com",
        "voice.example.com@evil.example",
        "192.0.2.7",
        "localhost.evil.example",
        "",
        "a b",
    ):
        answer = await get(port, own, name=name)
        assert (name, answer.status, answer.json["code"]) == (name, 400, "host")
        assert answer.headers["content-type"] == "application/problem+json"
        assert (await get(port, "/", name=name)).status == 400
        lines = [f"Host: {name}", f"Origin: http://{name}"]
        answer = await ask(port, upgrade(path, ticket, *lines, drop=["host"]))
        assert (name, answer.status) == (name, 400)
        # A balancer's probe knows an address, or some name of its own.
        if name.replace(".", "").replace(":", "").isalnum():
            assert (await get(port, "/health/live", name=name)).status == 200, name
    assert (await ask(port, b"GET /health/ready HTTP/1.0\r\n\r\n")).status == 200
    assert await is_good(relay, path, ticket)
    await stage.stop_relays()
