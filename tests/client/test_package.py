"""The client as an npm package: packed, installed and built as by who uses it, then talked to.

npm, Vite and TypeScript come from the npm registry; where that is not possible the tests skip and
say why. The relay is `voice-relay dev`; speech itself is in test_speech.py.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
import threading

import pytest
import pytest_asyncio
import yaml

from config.version import VERSION
from loadtests.npm import INSTALL_SECONDS
from loadtests.processes import free_port
from scripts import event_types
from tests.client.conftest import TAP, needs_chromium
from tests.end_to_end.conftest import START_SECONDS, Program
from tests.npm import install, need_node

ROOT = event_types.ROOT
CLIENT = ROOT / "relay" / "client"
OLDEST_NODE = (20, 19)  # that Vite runs on
MOST_BYTES = 20 * 1024  # of the core, compressed
# Of the WebSockets of sessions; Vite has one of its own.
STATES = "heard.sockets.filter(({ url }) => url.includes('/session/')).map((s) => s.readyState)"
OPEN, CLOSED = 1, 3
HEARD = "heard.sockets[0]?.sizes[640] > 20"  # frames of the microphone
VITE_COPIES = 4096  # bytes: what is smaller becomes a part of a script, which no worklet may be

pytestmark = pytest.mark.timeout(INSTALL_SECONDS + 60)


def run(*command, cwd, seconds=60):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """What `npm pack` makes of a clean copy."""
    need_node()
    version = run("node", "--version", cwd="/")
    if tuple(map(int, version.lstrip("v").split(".")[:2])) < OLDEST_NODE:
        pytest.skip(f"Vite needs Node.js 20.19, this is {version.strip()}")
    folder = tmp_path_factory.mktemp("package") / "client"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules", "types", "*.tgz"))
    install(folder)
    (made,) = json.loads(run("npm", "pack", "--json", cwd=folder))
    return folder / made["filename"]


@pytest.fixture(scope="module")
def example(packed):
    """The example, installed with the packed file."""
    folder = (
        packed.parents[1] / "example"
    )  # not within the package: nothing of it is found by chance
    shutil.move(packed.parent / "example", folder)
    told = json.loads((folder / "package.json").read_text("utf-8"))
    told["dependencies"]["voice-relay-client"] = f"file:{packed}"
    (folder / "package.json").write_text(json.dumps(told), "utf-8")
    install(folder)
    return folder


def test_what_is_packed_is_what_an_application_loads(packed):
    with tarfile.open(packed) as file:
        names = {name.removeprefix("package/") for name in file.getnames()}
        told = json.load(file.extractfile("package/package.json"))
        same = [n for n in names if n.endswith(".js") and not n.startswith("types/")]
        for name in same:  # the page has the very same
            content = file.extractfile(f"package/{name}").read()
            assert content == (CLIENT / name).read_bytes(), name

    entries = [e["default"].removeprefix("./") for e in told["exports"].values() if "default" in e]
    assert set(same) == reached(*entries) | {"worklet.js"}
    declared = {f"types/{name.removesuffix('.js')}.d.ts" for name in reached(*entries)}
    about = {"package.json", "README.md", "CHANGELOG.md", "LICENSE", "types/events.d.ts"}
    assert names - set(same) == declared | about
    assert "dependencies" not in told
    assert told["version"] == VERSION
    assert f"\n## {VERSION}\n" in (CLIENT / "CHANGELOG.md").read_text("utf-8")
    assert (CLIENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def reached(*names):
    """These modules and all that they import."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        text = (CLIENT / name).read_text("utf-8")
        for imported in re.findall(r'^(?:import|export) [^"]*?"(\.[^"]+)"', text, re.MULTILINE):
            path = (CLIENT / name).parent.joinpath(imported).resolve().relative_to(CLIENT.resolve())
            waiting += {str(path)} - found
    return found


def test_the_types_of_the_events_are_those_of_the_description():
    description = yaml.safe_load(event_types.ASYNCAPI.read_text("utf-8"))

    assert event_types.FILE.read_text("utf-8") == event_types.made(description), "run `make docs`"


def types_check(folder):
    """Examples of all messages, and uses of the package, each as it has to be and wrong once."""
    description = yaml.safe_load(event_types.ASYNCAPI.read_text("utf-8"))
    channel = description["channels"][event_types.CHANNEL]
    lines = [
        'import { Conversation, type SessionEvent, type View } from "voice-relay-client";',
        'import { useVoiceRelay } from "voice-relay-client/react";',
        'import { describe } from "voice-relay-client/words";',
    ]
    for one in channel["subscribe"]["message"]["oneOf"]:
        message = description["components"]["messages"][one["$ref"].rsplit("/", 1)[1]]
        lines += [
            f"({json.dumps(example['payload'])}) satisfies SessionEvent;"
            for example in message.get("examples", ())
        ]
    lines += [
        "// @ts-expect-error: no such event",
        '({ type: "RelayNothing" }) satisfies SessionEvent;',
        "// @ts-expect-error: its role is missing",
        '({ type: "RelayMessageSaved", seq: 1, message_id: "m" }) satisfies SessionEvent;',
        'const conversation = new Conversation({ url: "/api", getToken: async () => null });',
        'conversation.on("event", (event) => {',
        '  if (event.type === "RelayIntent") event.status satisfies "submitted" | string;',
        "  // @ts-expect-error: only a RelayIntent has it",
        '  if (event.type === "RelayNotice") event.status;',
        "});",
        "// @ts-expect-error: it tells no such thing",
        'conversation.on("changed", () => {});',
        "const relay = useVoiceRelay({ conversationId: null });",
        "relay satisfies View;",
        "relay.setVolume(relay.volume) satisfies void;",
        "relay.cards[0].status satisfies string;",
        "relay.type(relay.items[0].key) satisfies Promise<boolean>;",
        "(relay.problem && describe(relay.problem)?.title) satisfies string | null | undefined;",
        "relay.talk satisfies (event: MouseEvent) => void;",
        "// @ts-expect-error: no such state",
        'relay.state === "opened";',
    ]
    file = folder / "check.ts"
    file.write_text("\n".join(lines), "utf-8")
    return file


def test_the_types_say_what_is_right_and_what_is_not(packed, example):
    compiler = packed.parent / "node_modules" / ".bin" / "tsc"
    options = ("--noEmit", "--strict", "--module", "esnext", "--moduleResolution", "bundler")

    run(compiler, *options, "--types", "", types_check(example), cwd=example)


def test_the_core_is_small(packed, example):
    measure = example / "measure.mjs"
    measure.write_text(
        """import { rolldown } from "rolldown";
        const bundle = await rolldown({ input: "voice-relay-client" });
        const { output } = await bundle.generate({ format: "es", minify: true });
        console.log(output[0].code);""",
        "utf-8",
    )

    script = run("node", measure.name, cwd=example).encode()
    worklet = (CLIENT / "worklet.js").read_bytes()
    size = len(gzip.compress(script)) + len(gzip.compress(worklet))

    print(f"core: {size / 1024:.1f} KiB")
    assert b"RelayGoAway" in script
    assert size < MOST_BYTES
    assert len(worklet) > VITE_COPIES


def test_it_is_imported_and_rendered_where_there_is_no_window(example):
    script = example / "server.mjs"
    script.write_text(
        """import { readdirSync } from "node:fs";
        import { createElement } from "react";
        import { renderToString } from "react-dom/server";
        const folder = new URL("node_modules/voice-relay-client/", import.meta.url);
        const names = readdirSync(folder).filter((name) => name.endsWith(".js"));
        for (const name of names) await import(new URL(name, folder));
        const { useVoiceRelay } = await import("voice-relay-client/react");
        const Talk = () => {
          const relay = useVoiceRelay({ url: "/api/v1/voice" });
          return createElement("p", null, `${relay.word} ${relay.items.length}`);
        };
        console.log(JSON.stringify([typeof window, names.length,
          renderToString(createElement(Talk))]));""",
        "utf-8",
    )

    window, count, html = json.loads(run("node", script.name, cwd=example))

    assert window == "undefined"
    assert count > 10
    assert html == "<p>ready 0</p>"


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    program = Program(tmp_path_factory.mktemp("dev") / "data")
    program.until(lambda: "relay" in program.where, START_SECONDS)
    yield program.where["relay"]
    program.stop()


class Vite:
    """A server of Vite, in a process of its own."""

    def __init__(self, folder, *command, relay):
        port = free_port()
        self.process = subprocess.Popen(
            ["node_modules/.bin/vite", *command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=os.environ | {"RELAY": relay, "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = []
        for line in self.process.stdout:
            said.append(line)
            if "Local:" in line:
                break
        assert "Local:" in said[-1], "".join(said)
        self.reader = threading.Thread(target=self.process.stdout.read)  # or it would wait for us
        self.reader.start()
        self.url = f"http://127.0.0.1:{port}/"

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        self.reader.join(10)
        self.process.stdout.close()


@pytest.fixture
def vite(example, dev):
    """`vite(*command)` starts one and returns its URL. Named before `tab`, it outlives the page."""
    servers = []

    def start(*command):
        servers.append(Vite(example, *command, relay=dev))
        return servers[-1].url

    yield start
    for server in servers:
        server.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def tab(chromium):
    """`await tab(url)` opens a page; what its console says is an error of the test."""
    context = await chromium.new_context()
    await context.add_init_script(TAP)
    problems = []

    async def open_page(url):
        page = await context.new_page()
        page.set_default_timeout(40_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda said: problems.append(said.text) if said.type in ("error", "warning") else None,
        )
        await page.goto(url)
        return page

    yield open_page
    await context.close()
    assert [p for p in problems if "ScriptProcessorNode" not in p] == []  # ours, in tap.js


def readme_blocks(language):
    text = (CLIENT / "README.md").read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@needs_chromium
@pytest.mark.asyncio(loop_scope="module")
async def test_the_example_as_built_listens_answers_aloud_and_shows_the_card(example, vite, tab):
    run("node_modules/.bin/vite", "build", cwd=example)
    page = await tab(vite("preview"))
    await page.get_by_role("status").get_by_text("ready").wait_for()

    await page.get_by_role("button", name="Talk").click()
    await page.wait_for_function(HEARD)
    await page.wait_for_function("Number(document.querySelector('meter').value) > 0.1")
    await page.get_by_label("Microphone").select_option(label="Fake Audio Input 2")
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_role("status").get_by_text("ready").wait_for()
    await page.get_by_role("button", name="New").click()
    await page.get_by_role("textbox").fill("Add a task to buy milk")
    await page.get_by_role("button", name="Send").click()
    await page.locator(".assistant", has_text="right").last.wait_for()
    await page.get_by_role("textbox").fill("yes")
    await page.get_by_role("button", name="Send").click()
    await page.locator("[data-status=submitted]").wait_for()
    await page.wait_for_function("heard.ranges.some(({ peak }) => peak > 0.02)")

    assert "milk" in await page.locator("[data-status=submitted]").inner_text()
    assert await page.evaluate("heard.sockets.length") == 2  # one for each conversation

    await page.get_by_role("status").get_by_text("ready").wait_for()
    await page.get_by_label("Volume").fill("0")
    await page.evaluate("heard.ranges.splice(0)")
    await page.get_by_role("textbox").fill("Add a task to buy bread")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_role("status").get_by_text("speaking").wait_for()
    await page.get_by_role("status").get_by_text("ready").wait_for()
    assert await page.evaluate("heard.ranges") == []


@needs_chromium
@pytest.mark.asyncio(loop_scope="module")
async def test_strict_mode_and_hot_reload_keep_the_session_and_unmounting_ends_it(
    example, vite, tab
):
    app = example / "src" / "App.jsx"
    source = app.read_text("utf-8")
    page = await tab(vite())
    await page.get_by_role("textbox").fill("Add a task to buy milk")
    await page.get_by_role("button", name="Send").click()
    await page.locator(".user", has_text="milk").wait_for()
    await page.locator(".assistant", has_text="right").last.wait_for()

    app.write_text(source.replace("<h1>Talk</h1>", "<h1>Speak</h1>"), "utf-8")
    await page.get_by_role("heading", name="Speak").wait_for()
    await page.get_by_role("textbox").fill("yes")
    await page.get_by_role("button", name="Send").click()
    await page.locator("[data-status=submitted]").wait_for()
    states = await page.evaluate(STATES)

    app.write_text("export default function App() { return <h1>Bye</h1>; }\n", "utf-8")
    await page.get_by_role("heading", name="Bye").wait_for()
    await page.wait_for_function(f"{STATES}[0] === {CLOSED}")

    assert states == [OPEN]  # the one of before


@needs_chromium
@pytest.mark.asyncio(loop_scope="module")
async def test_the_code_without_react_runs(example, vite, tab):
    (example / "plain.js").write_text(readme_blocks("js")[1], "utf-8")
    page = '<link rel="icon" href="data:,"><button>Talk</button>'
    script = '<script type="module" src="/plain.js"></script>'
    (example / "plain.html").write_text(page + script, "utf-8")
    page = await tab(f"{vite()}plain.html")

    async with page.expect_console_message(lambda said: said.text.startswith("listening")):
        await page.get_by_role("button").click()


@needs_chromium
@pytest.mark.asyncio(loop_scope="module")
async def test_the_code_of_the_readme_runs_with_react_18(example, dev, vite, tab):
    install(example, "react@18.3.1", "react-dom@18.3.1")
    (jsx,) = readme_blocks("jsx")
    config = readme_blocks("js")[0]
    (example / "src" / "App.jsx").write_text(jsx, "utf-8")
    (example / "vite.config.js").write_text(config.replace("http://127.0.0.1:8080", dev), "utf-8")
    run("node_modules/.bin/vite", "build", cwd=example)
    page = await tab(vite("preview"))

    await page.get_by_role("button", name="Talk").click()
    await page.wait_for_function(HEARD)
    await page.locator("p", has_text=re.compile("listening|thinking|speaking")).wait_for()
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_text("ready").wait_for()
