"""api/security.py as the program composes it: headers, origins and sizes, over real sockets."""

from __future__ import annotations

from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from config.loader import load
from config.settings import CONFIG_DIR
from control.api.security import MAX_BODY_BYTES, MAX_DEPTH, make_headers
from control.app import create_app
from tests.closed_network import settings_of
from tests.relay.wires import listening

API = "/api/v1/voice"
APP = "https://app.example.com"


@asynccontextmanager
async def serving(database_url, tmp_path, **variables):
    settings = settings_of(
        DATABASE_URL=database_url,
        RELAY_DATA_DIR=str(tmp_path),
        RELAY_DIAL_AHEAD="0",
        **variables,
    )
    async with (
        listening(create_app(settings, load(CONFIG_DIR, {}))) as (port, _),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


@pytest.fixture
async def client(shared_database_url, tmp_path):
    async with serving(shared_database_url, tmp_path) as client:
        yield client


async def refused(url, **more):
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, **more)
    return caught.value.response


async def test_every_answer_has_the_headers(client):
    wanted = make_headers(settings_of())
    answers = [
        await client.get("/health/live"),
        await client.get("/metrics"),
        await client.get("/schema"),
        await client.get(f"{API}/conversations"),
        await client.get("/nothing"),
        await client.put(f"{API}/conversations"),
        await client.get(f"{API}/conversations/{uuid4()}"),
        await client.post(f"{API}/session", content=b"{"),
        await client.post(f"{API}/session", headers={"Origin": APP}),
    ]

    assert [a.status_code for a in answers] == [200, 200, 200, 200, 404, 405, 404, 400, 403]
    for answer in answers:
        assert {n: answer.headers.get(n) for n in wanted} == wanted, answer.url
        assert "strict-transport-security" not in answer.headers


async def test_refusals_of_the_websocket_have_them_too(client):
    wanted = make_headers(settings_of())
    base = f"ws://127.0.0.1:{client.base_url.port}"
    ticket = {"subprotocols": ["relay.v1", "x"]}
    unknown = await refused(f"{base}{API}/session/{uuid4()}/ws", **ticket)
    nowhere = await refused(f"{base}/nothing", **ticket)

    assert (unknown.status_code, nowhere.status_code) == (401, 404)
    for answer in (unknown, nowhere):
        assert {n: answer.headers.get(n) for n in wanted} == wanted


def test_the_policy_allows_scripts_and_connections_of_our_own_only():
    policy = make_headers(settings_of(RELAY_PUBLIC_URL="https://voice.example.com/base"))[
        "Content-Security-Policy"
    ]

    assert "default-src 'none'" in policy
    assert "connect-src 'self' wss://voice.example.com;" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "deepgram" not in policy
    direct = make_headers(settings_of(RELAY_DIRECT_TRANSPORT="on"))["Content-Security-Policy"]
    assert "connect-src 'self' wss://agent.deepgram.com;" in direct


async def test_behind_tls_browsers_are_told_to_stay_there(shared_database_url, tmp_path):
    public = {"RELAY_PUBLIC_URL": "https://voice.example.com"}
    async with serving(shared_database_url, tmp_path, **public) as client:
        assert "strict-transport-security" in (await client.get("/health/live")).headers

    async with serving(shared_database_url, tmp_path) as client:
        forwarded = await client.get("/health/live", headers={"X-Forwarded-Proto": "https"})
        assert "strict-transport-security" in forwarded.headers


async def test_a_page_of_another_site_may_change_nothing(client):
    before = (await client.get(f"{API}/conversations")).json()
    form = {"Content-Type": "text/plain"}
    one = f"{API}/conversations/{uuid4()}"
    for origin in (APP, "null", "http://127.0.0.1:1", "https://["):
        headers = {"Origin": origin}
        answers = [
            await client.post(f"{API}/session", headers=headers),
            await client.post(f"{API}/session", headers=headers | form, content=b"{}"),
            await client.delete(one, headers=headers),
            await client.patch(one, headers=headers, json={"title": "mine"}),
        ]
        assert [a.status_code for a in answers] == [403] * 4
        assert all(a.json()["code"] == "origin" for a in answers)
    assert (await client.get(f"{API}/conversations")).json() == before


async def test_a_page_of_ours_and_a_program_may(client):
    own = f"http://127.0.0.1:{client.base_url.port}"

    assert (await client.post(f"{API}/session", headers={"Origin": own})).status_code == 201
    assert (await client.post(f"{API}/session")).status_code == 201


async def test_a_page_of_another_site_may_read_nothing(client):
    answer = await client.get(f"{API}/conversations", headers={"Origin": APP})
    asked = await client.options(
        f"{API}/session", headers={"Origin": APP, "Access-Control-Request-Method": "POST"}
    )

    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in asked.headers


async def test_the_setting_opens_both_rest_and_the_websocket(shared_database_url, tmp_path):
    async with serving(shared_database_url, tmp_path, RELAY_ALLOWED_ORIGINS=APP) as client:
        asked = await client.options(
            f"{API}/session",
            headers={
                "Origin": APP,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization, content-type",
            },
        )
        begun = await client.post(f"{API}/session", headers={"Origin": APP})
        other = await client.get(f"{API}/conversations", headers={"Origin": "https://evil.example"})
        wrong = [
            await client.get(f"{API}/conversations/{uuid4()}", headers={"Origin": APP}),
            await client.post(f"{API}/session", headers={"Origin": APP}, content=b"["),
        ]
        url = f"ws://127.0.0.1:{client.base_url.port}{API}/session/{uuid4()}/ws"
        ticket = {"subprotocols": ["relay.v1", "x"]}
        admitted = await refused(url, origin=APP, **ticket)
        foreign = await refused(url, origin="https://evil.example", **ticket)

    assert asked.headers["access-control-allow-origin"] == APP
    allowed = asked.headers["access-control-allow-headers"].lower()
    # The last two: of Deepgram's JavaScript SDK, when it asks for a grant.
    for name in ("authorization", "content-type", "x-fern-sdk-name", "x-deepgram-session-id"):
        assert name in allowed
    assert begun.status_code == 201
    for answer in (begun, *wrong):  # errors have to be read, too
        assert answer.headers["access-control-allow-origin"] == APP
        assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-origin" not in other.headers
    assert (admitted.status_code, foreign.status_code) == (401, 403)


async def test_our_own_public_name_is_ours_whatever_host_a_proxy_says(
    shared_database_url, tmp_path
):
    public = {"RELAY_PUBLIC_URL": "https://voice.example.com"}
    async with serving(shared_database_url, tmp_path, **public) as client:
        answer = await client.post(
            f"{API}/session", headers={"Origin": "https://voice.example.com"}
        )

    assert answer.status_code == 201


async def test_a_body_has_a_bound_in_length_and_in_depth(client):
    deep = b"[" * (MAX_DEPTH + 1)
    hidden = b'{"timezone": "\\"", "x": ' + b"[" * 60_000
    long = b'{"timezone": "' + b"x" * MAX_BODY_BYTES + b'"}'
    answers = [await client.post(f"{API}/session", content=body) for body in (deep, hidden, long)]

    async def unannounced():
        for _ in range(64):
            yield b" " * 4096

    answers.append(await client.post(f"{API}/session", content=unannounced()))

    assert [a.status_code for a in answers] == [400, 400, 413, 413]
    assert all(a.headers["content-type"] == "application/problem+json" for a in answers)
