"""What the image would start: an environment of its own without what only development needs, an
account that owns nothing, and files that it cannot write."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from packaging.requirements import Requirement

from tests.chaos.stage import staged, until
from tests.deploy.production import (
    CONTAINERFILE,
    ROOT,
    environment,
    install,
    instructions,
    last,
    python_for_everybody,
)

pytestmark = pytest.mark.timeout(300)
USER = int(instructions("USER")[-1].split(":")[0])


@pytest.fixture(scope="module")
def place():
    """A folder that every account may enter: what pytest makes is closed to others."""
    with tempfile.TemporaryDirectory(prefix="voice-image-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def made(place):
    python = python_for_everybody()
    if python is None:
        pytest.skip("there is no Python that another account may run")
    return install(place, python)


def names(texts):
    return {re.sub(r"[-_.]+", "-", Requirement(text).name).lower() for text in texts}


def test_nothing_of_development_is_installed(made):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (folder,) = made.glob("lib/python*/site-packages")
    there = names(one.metadata["Name"] for one in distributions(path=[str(folder)]))
    wanted = names(project["dependencies"])
    extras = set().union(*map(names, project["optional-dependencies"].values()))

    assert there >= wanted | {"voice-relay"}
    assert there & extras <= wanted | {"voice-relay"}
    assert not there & {"pip", "pytest", "numpy", "websockets"}
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    for one in distributions(path=[str(folder)]):
        if one.metadata["Name"] != "voice-relay":
            assert f"{one.metadata['Name']}=={one.version}\n".lower() in pins.lower()


def as_its_user(command, **more):
    """Run it as the image does; as we are where we may not choose."""
    account = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **account, **more)


def snapshot(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def lock(made, place, database_url):
    """Its volume, which it may write to; nobody may write to its files."""
    volume = place / "volume"
    volume.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(volume, USER, USER)
    for path in [made, *made.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    # The socket of the test's Postgres is for its own account and for ours.
    sockets = Path(parse_qs(urlsplit(database_url).query)["host"][0])
    sockets.chmod(sockets.stat().st_mode | 0o011)
    return volume


async def test_it_serves_as_nobody_in_particular_and_writes_its_volume_alone(
    made, place, database_url, tmp_path
):
    volume = lock(made, place, database_url)
    before = snapshot(made)
    async with staged(tmp_path, database_url) as stage:
        ours = {name: value for name, value in environment().items() if name != "PATH"}
        assert ours["RELAY_DATA_DIR"] == instructions("VOLUME")[-1] == instructions("WORKDIR")[-1]
        relay = stage.relay(
            **ours | {"RELAY_DATA_DIR": str(volume), "HOME": str(volume)},
            RELAY_CONFIG_DIR="",
            PATH=f"{made / 'bin'}:/usr/bin:/bin",
        )
        entry, *words = last("ENTRYPOINT") + last("CMD")
        account = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
        await relay.start([str(made / "bin" / entry), *words], cwd=volume, **account)
        ask = [str(made / "bin/python"), *healthcheck()[1:]]
        environ = {"PATH": f"{made / 'bin'}:/usr/bin:/bin", "RELAY_PORT": str(relay.port)} | {
            "RELAY_HOST": ours["RELAY_HOST"]
        }

        async def is_well():
            return as_its_user(ask, env=environ, cwd=volume).returncode == 0

        await until(is_well, 30)
        async with stage.people(random.Random(1), 2) as browsers:
            for browser in browsers:
                assert await browser.turn(15)
            verdict = await stage.settle(browsers)
        relay.signal(signal.SIGTERM)
        assert await relay.end(20) == 0, relay.output
        gone = as_its_user(ask, env=environ, cwd=volume)

    assert verdict.told > 0
    assert "Traceback" not in relay.output
    assert (gone.returncode, "refused" in gone.stdout) == (1, True)
    assert snapshot(made) == before
    assert [path.name for path in volume.iterdir()] == ["journal"]


def healthcheck():
    (found,) = re.findall(r"CMD (\[.*\])", instructions("HEALTHCHECK")[-1])
    return json.loads(found)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Unavailable\r\n\r\n", b"nonsense\r\n\r\n"])
def test_whoever_asks_is_told_that_it_is_not_well(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        environ = os.environ | {"RELAY_PORT": str(server.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "-m", "control.health_check"], env=environ, cwd=ROOT, timeout=30
        )
        thread.join()
    assert done.returncode == 1


def test_the_image_runs_as_a_number_that_is_not_root_and_says_where_it_writes():
    text = CONTAINERFILE.read_text("utf-8")

    assert USER > 1000
    assert text.count(f"--uid {USER} ") == 1
    assert "latest" not in text
