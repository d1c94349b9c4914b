"""What monitors and probes send: HEAD, OPTIONS, old versions of HTTP."""

from __future__ import annotations

from tests.outside.raw import API, ask, connected, get, read_answer


async def test_head_is_get_without_the_body(stage):
    relay = stage.relay()
    await relay.start()
    port = relay.port
    for target in (
        "/",
        "/app.js",
        "/style.css",
        "/health/live",
        "/health/ready",
        "/schema",
        f"{API}/conversations",
        f"{API}/conversations?limit=1",
        f"{API}/intents",
    ):
        whole = await get(port, target)
        # The next answer on the same connection would show a body that should not be there.
        async with connected(port) as (reader, writer):
            for _ in range(2):
                writer.write(f"HEAD {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                answer = await read_answer(reader, has_body=False)
                assert (target, answer.status) == (target, 200)
                same = ("content-type", "content-length", "etag", "content-security-policy")
                assert [answer.headers.get(n) for n in same] == [whole.headers.get(n) for n in same]
    etag = (await get(port, "/")).headers["etag"]
    kept = await get(port, "/", f"If-None-Match: {etag}", method="HEAD")
    assert kept.status == 304
    for target in ("/nothing", f"{API}/conversations/1", "//health/live"):
        assert (await get(port, target, method="HEAD")).status in (400, 404), target
    assert (await get(port, f"{API}/session", method="HEAD")).status == 405
    old = await ask(port, b"HEAD /health/ready HTTP/1.0\r\n\r\n", has_body=False)
    assert old.status == 200
    await stage.stop_relays()


async def test_options_says_which_methods_there_are(stage):
    relay = stage.relay()
    await relay.start()
    for target in ("/", "/health/live", f"{API}/conversations"):
        answer = await get(relay.port, target, method="OPTIONS")
        assert (target, answer.status) == (target, 204)
        assert {"GET", "HEAD"} <= set(answer.headers["allow"].replace(",", " ").split())
        wrong = await get(relay.port, target, method="PUT")
        assert (target, wrong.status) == (target, 405)
        assert {"GET", "HEAD"} <= set(wrong.headers["allow"].replace(",", " ").split())
    await stage.stop_relays()
