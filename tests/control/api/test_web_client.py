"""The web client as it is served: every file, its type, its headers; and turned off."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from config.loader import load
from config.settings import CONFIG_DIR, STAND_INS, from_environment
from control.api.web_client import FOLDER, INDEX, load_files, make_handler
from control.app import create_app

ROOT = Path(__file__).parents[3]


@pytest.fixture
def http():
    with TestClient(Litestar([make_handler()], openapi_config=None)) as client:
        yield client


def paths(**environ):
    settings = from_environment(STAND_INS | environ)
    return {route.path for route in create_app(settings, load(CONFIG_DIR, {})).routes}


@pytest.mark.parametrize("name", load_files())
def test_every_file_comes_whole_with_its_type(http, name):
    answer = http.get(f"/{name}")

    assert answer.status_code == 200
    kept = (FOLDER / (name or INDEX)).read_bytes()
    assert answer.content.removeprefix(kept) == b"" or name == "worker.js"
    assert answer.content.startswith(kept)
    assert answer.headers["content-type"].split(";")[0] == load_files()[name].media_type
    assert answer.headers["cache-control"] == "no-cache"


def test_the_service_worker_is_another_one_when_any_file_is(tmp_path):
    for path in FOLDER.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = load_files(tmp_path)
    (tmp_path / "words.js").write_bytes(b"// other words\n")

    after = load_files(tmp_path)

    assert before["worker.js"].content != after["worker.js"].content
    assert before["worker.js"].etag != after["worker.js"].etag
    assert before["app.js"] == after["app.js"]


def test_what_a_browser_has_already_is_not_sent_again(http):
    etag = http.get("/app.js").headers["etag"]

    again = http.get("/app.js", headers={"If-None-Match": etag})
    other = http.get("/app.js", headers={"If-None-Match": '"something-else"'})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == etag
    assert other.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/events.ts",
        "/package.json",
        "/README.md",
        "/react/hook.js",
        "/../pyproject.toml",
        "/%2e%2e/pyproject.toml",
        "/x.js",
    ],
)
def test_nothing_else_is_served(http, path):
    assert http.get(path).status_code == 404


def test_it_can_be_turned_off():
    assert {"/", "/app.js", "/worker.js"} <= paths()
    assert not {"/", "/app.js", "/worker.js"} & paths(RELAY_CLIENT="off")


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere():
    page = (FOLDER / "index.html").read_text("utf-8")

    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", page)
    for path in FOLDER.glob("*.*"):
        if path.suffix in (".js", ".css", ".html"):
            elsewhere = re.findall(
                r"https?://(?!www\.w3\.org/)[^\s\"']+|blob:", path.read_text("utf-8")
            )
            assert elsewhere == [], path.name


def test_the_wheel_has_every_file():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = told["tool"]["setuptools"]["package-data"]["relay"]

    for name in load_files():
        assert any(fnmatch(f"client/{name or INDEX}", pattern) for pattern in patterns), name
    assert not any(fnmatch("client/package.json", pattern) for pattern in patterns)


def test_every_file_is_in_its_document():
    text = (ROOT / "docs/client.md").read_text("utf-8")
    named = {path.name for path in FOLDER.glob("*.*") if path.suffix != ".png"} - {"icon.svg"}

    assert [name for name in sorted(named) if f"`{name}`" not in text] == []


def test_the_page_opens_without_a_network_with_all_that_it_loads():
    worker = (FOLDER / "worker.js").read_text("utf-8")
    kept = set(re.findall(r'"([^"]+)"', re.search(r"FILES = \[(.*?)\]", worker, re.DOTALL)[1]))
    needed, waiting = set(), ["./", "app.js", "worklet.js"]
    while waiting:
        name = waiting.pop()
        needed.add(name)
        text = (FOLDER / (INDEX if name == "./" else name)).read_text("utf-8")
        found = re.findall(r'^(?:import|export) [^"]*?"\./(\w+\.js)"', text, re.MULTILINE)
        waiting += set(found) - needed

    assert {name for name in kept if name.endswith(("/", ".js"))} == needed
    assert kept - {"./"} <= load_files().keys()
