"""deploy/nginx.conf and deploy/haproxy.cfg, with the real programs before two real relays."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from loadtests.environment import make_certificate
from loadtests.processes import free_port
from loadtests.systems_under_test import find
from tests.chaos.link import HOST
from tests.chaos.stage import answers, staged, until

DEPLOY = Path(__file__).parents[2] / "deploy"
pytestmark = pytest.mark.timeout(180)
BALANCERS = ["nginx", "haproxy"]


def nginx(folder, listen, relays, change=str):
    """The command that runs nginx with our file, at other addresses."""
    text = change((DEPLOY / "nginx.conf").read_text("utf-8"))
    text = text.replace("listen 8080;", f"listen {HOST}:{listen};")
    (folder / "voice.conf").write_text(at(text, relays))
    paths = "".join(
        f"{kind}_temp_path {folder / kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "main.conf"
    main.write_text(
        f"daemon off; pid {folder / 'pid'}; error_log stderr error;\n"
        f"events {{}}\nhttp {{ {paths} include {folder / 'voice.conf'}; }}\n"
    )
    return [find("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(main)]


def haproxy(folder, listen, relays, change=str):
    text = change((DEPLOY / "haproxy.cfg").read_text("utf-8"))
    path = folder / "haproxy.cfg"
    path.write_text(at(text.replace("bind :8080", f"bind {HOST}:{listen}"), relays))
    return [find("haproxy"), "-db", "-f", str(path)]


def at(text, relays):
    for example, port in zip((8081, 8082), relays, strict=True):
        assert f"127.0.0.1:{example}" in text
        text = text.replace(f"127.0.0.1:{example}", f"{HOST}:{port}")
    return text


COMMANDS = {"nginx": nginx, "haproxy": haproxy}


@pytest.fixture(params=BALANCERS)
def balancer(request):
    if find(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@asynccontextmanager
async def balanced(balancer, folder, relays):
    """The URL of the balancer before these relays."""
    listen = free_port()
    log = folder / "balancer.log"
    command = COMMANDS[balancer](folder, listen, [relay.port for relay in relays])
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:

        async def is_up():
            assert process.returncode is None, log.read_text()
            return await answers(listen)

        await until(is_up, 20)
        yield f"http://{HOST}:{listen}"
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def live(stage, relay):
    return await relay.metric(stage.http, "relay_sessions_live")


@asynccontextmanager
async def people_at_each(stage, relays, chance, url):
    """Eight or more in conversation, some at each relay: which one a key leads to is chance."""
    async with AsyncExitStack() as stack:
        browsers = await stack.enter_async_context(stage.people(chance, 8, url))
        while not all([await live(stage, relay) for relay in relays]):
            assert len(browsers) < 50, "one relay gets nobody"
            another = stage.browser(chance, f"b{len(browsers)}", url)
            await stack.enter_async_context(another.at_work())
            await another.turn_at_last(15)
            browsers.append(another)
        yield browsers


async def test_who_comes_back_finds_the_session_and_a_relay_that_is_gone_is_replaced(
    database_url, tmp_path, balancer
):
    chance = random.Random(1)
    async with staged(tmp_path, database_url) as stage:
        relays = [stage.relay(), stage.relay()]
        await asyncio.gather(*(relay.start() for relay in relays))
        async with (
            balanced(balancer, tmp_path, relays) as url,
            people_at_each(stage, relays, chance, url) as browsers,
        ):
            count = len(browsers)
            # Whoever is cut off comes back to the relay that has the session.
            for browser in browsers:
                browser.cut()
                assert await browser.until(partial(has_returned, browser), 15)
                await browser.turn_at_last(15)
            assert [browser.sessions for browser in browsers] == [1] * count
            assert not any(browser.refusals for browser in browsers)

            # One is told to stop in mid-turn: its sessions go on at the other, nobody hears a 503.
            gone, other = relays
            stayed = await live(stage, other)
            async with asyncio.TaskGroup() as tasks:
                turns = [tasks.create_task(browser.turn(15)) for browser in browsers]
                told = [len(browser.told) for browser in browsers]
                for browser, before in zip(browsers, told, strict=True):
                    assert await browser.until(partial(has_heard_more, browser, before), 15)
                gone.signal(signal.SIGTERM)
            await gone.end(20)
            await asyncio.gather(*(browser.turn_at_last(30) for browser in browsers))
            assert all(turn.result() for turn in turns), "a turn was cut off"
            assert await live(stage, other) == count
            assert [browser.sessions for browser in browsers] == [1] * count
            assert sum(browser.takeovers for browser in browsers) == count - stayed > 0
            assert not any(browser.refusals for browser in browsers)

            # It comes again, the other is killed: all go to the one that is there.
            await gone.start()
            await until(lambda: is_ready(stage, gone), 20)
            await stage.settle(browsers)
            await other.kill()
            await asyncio.gather(*(browser.turn_at_last(30) for browser in browsers))
            assert await live(stage, gone) == count
            assert [browser.sessions for browser in browsers] == [1] * count
            verdict = await stage.settle(browsers)
    assert stayed < count
    assert verdict.told > 40


def has_returned(browser):
    return browser.returns == 1


def has_heard_more(browser, before):
    return len(browser.told) > before


async def is_ready(stage, relay):
    return (await stage.http.get(f"{relay.url}/health/ready")).status_code == 200


async def test_the_agent_that_was_dialled_at_the_post_is_the_one_of_the_session(
    database_url, tmp_path, balancer
):
    async with staged(tmp_path, database_url) as stage:
        relays = [stage.relay(), stage.relay()]
        await asyncio.gather(*(relay.start() for relay in relays))
        async with (
            balanced(balancer, tmp_path, relays) as url,
            people_at_each(stage, relays, random.Random(1), url) as browsers,
        ):
            used = [await dialled_ahead(stage, relay, "used") for relay in relays]
            dials = [await dials_of(stage, relay) for relay in relays]
            missed = [await dialled_ahead(stage, relay, "missed") for relay in relays]

    assert sum(used) == len(browsers)
    assert all(used)
    assert dials == used, "and no agent was dialled for nothing"
    assert missed == [0, 0]


async def test_a_relay_that_dies_between_the_post_and_the_websocket_is_replaced(
    database_url, tmp_path, balancer
):
    async with staged(tmp_path, database_url) as stage:
        relays = [stage.relay(), stage.relay()]
        await asyncio.gather(*(relay.start() for relay in relays))
        async with balanced(balancer, tmp_path, relays) as url:
            begun = await stage.http.post(f"{url}/api/v1/voice/session", json={})
            body = begun.json()

            async def has_dialled():
                return sum([await dials_of(stage, relay) for relay in relays]) == 1

            await until(has_dialled, 15)
            (dialler,) = [one for one in relays if await dials_of(stage, one)]
            (other,) = set(relays) - {dialler}
            await dialler.kill()

            async with connect(
                body["websocket_url"], subprotocols=["relay.v1", body["ticket"]], open_timeout=15
            ) as socket:
                await until_applied(socket)
                assert await live(stage, other) == 1
            assert await dialled_ahead(stage, other, "missed") == 1


async def test_a_made_up_key_leads_to_a_relay_and_to_a_session_of_its_own(
    database_url, tmp_path, balancer
):
    good = "0123456789ab"
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay(RELAY_DIAL_AHEAD="0")
        await relay.start()
        async with balanced(balancer, tmp_path, [relay, relay]) as url:

            async def begin(place, key):
                headers = {"X-Session-Key": key.encode()}
                begun = await stage.http.post(
                    f"{place}/api/v1/voice/session", json={}, headers=headers
                )
                assert begun.status_code == 201, key
                return begun.json()["session_id"]

            for key in (good, good.upper(), "../../../etc", "f" * 13, "", "é"):
                ids = [await begin(place, key) for place in (url, url, relay.url, relay.url)]
                assert len(set(ids)) == 4
                # The balancer says its own; the relay itself takes one that is well formed.
                ends = [one.rpartition("-")[2] == key for one in ids]
                assert ends == [False, False, key == good, key == good]


async def until_applied(socket):
    async with asyncio.timeout(15):
        async for frame in socket:
            if isinstance(frame, str) and json.loads(frame)["type"] == "SettingsApplied":
                return


async def dialled_ahead(stage, relay, outcome):
    return await counted(stage, relay, f'relay_dialled_ahead_total{{outcome="{outcome}"}}')


async def dials_of(stage, relay):
    return await counted(stage, relay, 'relay_dials_total{outcome="opened"}')


async def counted(stage, relay, series):
    """A counter that may not have begun."""
    text = (await stage.http.get(f"{relay.url}/metrics")).text
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_what_the_relay_is_told_of_the_browser(database_url, tmp_path, balancer):
    async with staged(tmp_path, database_url) as stage:
        relays = [stage.relay(), stage.relay()]
        await asyncio.gather(*(relay.start() for relay in relays))
        async with balanced(balancer, tmp_path, relays) as url:
            begun = await stage.http.post(
                f"{url}/api/v1/voice/session", headers={"Host": "voice.example.com"}
            )
            hidden = await stage.http.get(f"{url}/metrics")

    assert begun.json()["websocket_url"].startswith("ws://voice.example.com/api/")
    assert hidden.status_code == 404


@pytest.mark.parametrize("name", BALANCERS)
def test_the_lines_for_tls_are_right(tmp_path, name):
    if find(name) is None:
        pytest.skip(f"{name} is not installed")
    _, both = make_certificate(tmp_path)

    def with_tls(text):
        text, lines = re.subn(r"^( +)# (listen|ssl_|bind)", r"\1\2", text, flags=re.MULTILINE)
        assert lines
        text = re.sub(r"\b443\b", str(free_port()), text)  # first: a path may have the number, too
        text = text.replace("/etc/ssl/voice/fullchain.pem", str(both))
        text = text.replace("/etc/ssl/voice/privkey.pem", str(both))
        return text.replace("/etc/haproxy/voice.pem", str(both))

    command = COMMANDS[name](tmp_path, free_port(), [8081, 8082], with_tls)
    check = {"nginx": "-t", "haproxy": "-c"}[name]
    done = subprocess.run([*command, check], capture_output=True, text=True, timeout=20)

    assert done.returncode == 0, done.stderr
