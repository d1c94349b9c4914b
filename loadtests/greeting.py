"""From the tap on the microphone to the greeting, in a real browser, beside a direct connection.

Load tests. Chromium drives the page of the relay and, in turns with it, a page that talks to the
agent itself: a token by POST, then the agent's WebSocket, as Deepgram's own clients do. The same
delay lies between the browser and whomever it talks to, none behind the relay and none behind the
server that fetches the token. Each tap is the first one of a page that was just loaded; its
connection for requests is open already, as that of a page which is used within a few seconds.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from litestar import Litestar, Response, get, post

import config
from config.loader import load
from control.api import web_client
from control.http.server import listen, serving
from loadtests.environment import PATH, Environment
from loadtests.processes import HOST, ProgramFailed
from loadtests.results import Arm
from loadtests.slow_network import SlowNetwork
from loadtests.systems_under_test import KEY, find, start
from relay.core.admitted import Admitted
from relay.core.user_context import UserContext
from relay.live import agent_settings
from relay.protocol import deepgram
from relay.sandbox.handshake import GRANT_PATH

ROUND_TRIPS = (0.0, 0.03, 0.1)  # seconds
ENDS = ("listening", "heard")  # what is waited for: the state word; the first sample played
HERE = Path(__file__).parent
MARKS = (HERE / "tap_marks.js").read_text("utf-8")
BROWSER = [
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",  # the microphone is allowed already
]
PATIENCE = 30_000  # ms, for each step of a page

Marks = dict[str, float]
"""What happened after one tap: ms since it, by name."""

Found = dict[float, dict[Arm, list[Marks]]]
"""By round trip and arm; taps in order, so that those of both arms are pairs."""


async def find_figures(
    environment: Environment, tell: Callable[[str], None], *, taps: int
) -> dict[str, float]:
    """What `to_figures` gives; nothing where this machine has no browser to drive. The agent of
    `environment` is a sandbox. Raises `ProgramFailed`."""
    if not taps:
        return {}
    if find("chromium") is None or importlib.util.find_spec("playwright") is None:
        tell("the greeting is not measured: it needs Chromium and Playwright")
        return {}
    found = await measure(environment, tell, taps=taps)
    tell(describe(found))
    return to_figures(found)


async def measure(
    environment: Environment,
    tell: Callable[[str], None],
    *,
    taps: int,
    round_trips: Sequence[float] = ROUND_TRIPS,
) -> Found:
    """Tap so often in each arm at each round trip; arms take turns. Raises `ProgramFailed`."""
    found: Found = {}
    async with AsyncExitStack() as stack:
        pages = await stack.enter_async_context(_pages(environment))
        context = await stack.enter_async_context(_browser())
        for round_trip in round_trips:
            tell(f"tapping {taps} times each way with a round trip of {round_trip * 1000:.0f} ms")
            times: dict[Arm, list[Marks]] = {Arm.OURS: [], Arm.DIRECT: []}
            for tap in range(-1, taps):  # the first one warms up
                for arm in times if tap % 2 == 0 else reversed(times):
                    marks = await _tap(context, *pages[arm], round_trip)
                    if tap >= 0:
                        times[arm].append(marks)
            found[round_trip] = times
    return found


Page = tuple[str, list[SlowNetwork]]
"""Its URL, and the ways on which it talks."""


@asynccontextmanager
async def _pages(environment: Environment) -> AsyncIterator[dict[Arm, Page]]:
    """Both, and their servers, while inside."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        agent = urlsplit(environment.agent_url)
        relay = urlsplit((await enter(start(Arm.OURS, environment))).endpoint.url)
        to_relay = await enter(SlowNetwork(relay.port or 0).running())
        to_agent = await enter(SlowNetwork(agent.port or 0).running())
        door = listen(HOST, 0)
        stack.callback(door.close)
        http = httpx.AsyncClient(base_url=f"http://{agent.netloc}", trust_env=False)
        agent_url = f"ws://{HOST}:{to_agent.port}{PATH}"
        await enter(serving(_make_direct_app(await enter(http), agent_url), door))
        to_page = await enter(SlowNetwork(door.getsockname()[1]).running())
        yield {
            Arm.OURS: (f"http://{HOST}:{to_relay.port}/", [to_relay]),
            Arm.DIRECT: (f"http://{HOST}:{to_page.port}/", [to_page, to_agent]),
        }


def _make_direct_app(rest: httpx.AsyncClient, agent_url: str) -> Litestar:
    """What a page needs that talks to the agent itself: its files, Settings, and a token."""
    files = web_client.load_files()
    page, script = (
        web_client.load_files(HERE)[name] for name in ("direct_page.html", "direct_page.js")
    )
    paths = {f"/{name}": file for name, file in files.items() if name} | {"/": page}

    @post("/token")
    async def give_token() -> dict[str, str]:
        answer = await rest.post(GRANT_PATH, headers={"Authorization": f"Token {KEY}"})
        answer.raise_for_status()
        return {"access_token": answer.json()["access_token"], "agent_url": agent_url}

    @get("/settings", sync_to_thread=False)
    def get_settings() -> Response[bytes]:
        return Response(_make_settings(), media_type="application/json")

    handlers = [web_client.serve_files(paths | {"/direct_page.js": script})]
    return Litestar([*handlers, give_token, get_settings], openapi_config=None, logging_config=None)


def _make_settings() -> bytes:
    """Those that the relay sends for a new conversation."""
    configuration = load(Path(config.__file__).parent, {})
    nobody = UUID(int=0)
    admitted = Admitted(
        session_id=nobody,
        conversation_id=nobody,
        user_id="",
        timezone="UTC",
        audio=configuration.agent.audio,
    )
    return deepgram.encode(agent_settings.compose(configuration, admitted, [], UserContext()))


@asynccontextmanager
async def _browser() -> AsyncIterator[Any]:
    """A context of Chromium, with a microphone."""
    from playwright.async_api import async_playwright  # where it is installed

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find("chromium"), args=BROWSER)
        context = await browser.new_context()
        context.set_default_timeout(PATIENCE)
        await context.add_init_script(MARKS)
        yield context
        await browser.close()


async def _tap(context: Any, url: str, ways: list[SlowNetwork], round_trip: float) -> Marks:
    """The first tap on a new page, and the end of its session. Raises `ProgramFailed`."""
    from playwright.async_api import TimeoutError

    page = await context.new_page()
    try:
        await page.goto(url, wait_until="networkidle")
        for way in ways:
            way.round_trip = round_trip
        await page.click("#mic")
        try:
            await page.wait_for_function("() => marks.heard && marks.listening", polling=50)
        except TimeoutError as error:
            came = await page.evaluate("marks")
            raise ProgramFailed(f"{url}: expected {' and '.join(ENDS)}, got {came}") from error
        marks: Marks = await page.evaluate("marks")
        for way in ways:
            way.round_trip = 0.0
        await page.click("#mic")
        await page.wait_for_function("() => document.body.dataset.word === 'ready'")
    finally:
        for way in ways:
            way.round_trip = 0.0
        await page.close()
    return marks


# --- what came of it -----------------------------------------------------------------------------


def p95(values: Sequence[float]) -> float:
    """The least of the values that 95 % of them do not exceed."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def to_figures(found: Found) -> dict[str, float]:
    """Median and p95 of each arm, and `greeting_over_direct_ms`: the most that ours is later."""
    figures: dict[str, float] = {}
    over: list[float] = []
    for round_trip, times in found.items():
        for end in ENDS:
            for name, summary in (("p50", median), ("p95", p95)):
                values = {arm: summary([tap[end] for tap in taps]) for arm, taps in times.items()}
                over.append(values[Arm.OURS] - values[Arm.DIRECT])
                for arm, value in values.items():
                    figures[f"greeting_{end}_{arm}_{round_trip * 1000:.0f}ms_{name}"] = value
    return figures | {"greeting_over_direct_ms": max(over)}


def describe(found: Found) -> str:
    """The steps of a tap, for people: the median of each, and p95 of those that are waited for."""
    lines = []
    for round_trip, times in found.items():
        lines.append(f"round trip {round_trip * 1000:.0f} ms")
        for arm, taps in times.items():
            names = {name for tap in taps for name in tap}
            steps = {name: [tap[name] for tap in taps if name in tap] for name in names}
            shown = sorted((median(values), name) for name, values in steps.items())
            lines.append(f"  {arm}: " + ", ".join(f"{name} {value:.0f}" for value, name in shown))
            lines.append("    p95: " + ", ".join(f"{end} {p95(steps[end]):.0f}" for end in ENDS))
        pairs = zip(times[Arm.OURS], times[Arm.DIRECT], strict=True)
        earlier = [theirs["heard"] - ours["heard"] for ours, theirs in pairs]
        lines.append(f"  heard earlier than direct, of pairs: {median(earlier):.0f} ms")
    return "\n".join(lines)
