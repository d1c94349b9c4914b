"""The version before and this one, side by side: an upgrade and a roll-back under live sessions.

The version before is the last tag, or else the commit before; UPGRADE_FROM names another one.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from control.db.migrate import load_migrations
from tests.chaos.stage import VOICE_RELAY, staged

ROOT = Path(__file__).parents[2]
PEOPLE = 4
OURS = (VOICE_RELAY,)
THEIRS = (sys.executable, "-P", "-c", "from control.cli import main; main()")
pytestmark = pytest.mark.timeout(300)


def git(*words):
    done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, timeout=50)
    return done.stdout if done.returncode == 0 else b""


def find_before():
    revision = os.environ.get("UPGRADE_FROM") or git("describe", "--tags", "--abbrev=0").decode()
    return git("rev-parse", "--verify", "--quiet", f"{revision.strip() or 'HEAD~1'}^{{commit}}")


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The files of the version before."""
    commit = find_before().decode().strip()
    if not commit:
        pytest.skip("there is no history (a shallow clone?): upgrades are NOT tested")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=BytesIO(git("archive", commit))) as files:
        files.extractall(folder, filter="data")
    # It is really theirs that runs.
    code = "import control.app as app; print(app.__file__)"
    command = [sys.executable, "-P", "-c", code]
    environ = os.environ | {"PYTHONPATH": str(folder)}
    found = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=50)
    assert found.stdout.strip() == str(folder / "control/app.py"), found.stderr
    return folder


class Versions:
    """Two places, each with a relay of either version; they share a journal folder."""

    def __init__(self, stage, before):
        self.stage = stage
        self.before = before
        data = stage.folder / "data"
        self.old = [self.prepare(stage.relay(data_dir=data)) for _ in range(2)]
        self.new = [stage.relay(data_dir=data) for _ in range(2)]
        for old, new in zip(self.old, self.new, strict=True):
            new.port, new.url = old.port, old.url
            new._environ["RELAY_PORT"] = str(old.port)

    def prepare(self, relay):
        """It reads its own configuration, and knows no setting that came later."""
        folder = self.stage.folder / "config of before"
        if not folder.exists():
            shutil.copytree(self.before / "config", folder)
            policy = folder / "policy.yaml"
            text = policy.read_text("utf-8")
            policy.write_text(text.replace("per_minute: 30\n", "per_minute: 6000\n"), "utf-8")
        relay._environ |= {"PYTHONPATH": str(self.before), "RELAY_CONFIG_DIR": str(folder)}
        known = (self.before / "docs/reference/settings.md").read_text("utf-8")
        for name in [name for name in relay._environ if name.startswith("RELAY_")]:
            if f"`{name}`" not in known:
                del relay._environ[name]
        return relay

    def run(self, command, *words):
        """A command of a version, on the database."""
        environ = {"PATH": os.environ["PATH"], "DATABASE_URL": self.stage.database_url}
        if command is THEIRS:
            environ["PYTHONPATH"] = str(self.before)
        done = subprocess.run(
            [*command, *words], env=environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def start(self, relay):
        command = THEIRS if relay in self.old else OURS
        await relay.start([*command, "serve"])


async def turns(browsers):
    await asyncio.gather(*(browser.turn_at_last(40) for browser in browsers))


async def replace(versions, browsers, old, new, how):
    """`new` takes the place of `old`, whose sessions go on elsewhere meanwhile."""
    talking = [asyncio.create_task(browser.turn(30)) for browser in browsers]
    old.signal(how)
    await old.end(20)
    await asyncio.gather(*talking)
    await turns(browsers)
    await versions.start(new)
    await turns(browsers)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGTERM, id="in order"),
        pytest.param(signal.SIGKILL, id="killed", marks=pytest.mark.long),
    ],
)
async def test_an_upgrade_and_a_roll_back_under_live_sessions_lose_nothing(
    before, empty_database_url, tmp_path, how
):
    async with staged(tmp_path, empty_database_url) as stage:
        versions = Versions(stage, before)
        versions.run(THEIRS, "migrate")
        for relay in versions.old:
            await versions.start(relay)
        entrances = [relay.url for relay in versions.old]
        async with stage.people(random.Random(1), PEOPLE, *entrances) as browsers:
            applied = versions.run(OURS, "migrate")
            await turns(browsers)  # the old ones go on with the new schema
            for old, new in zip(versions.old, versions.new, strict=True):
                await replace(versions, browsers, old, new, how)
            upgraded = await stage.settle(browsers, hurry=True)

            newer = [one for one in load_migrations() if one.name in applied]
            if not all(one.is_compatible for one in newer):
                late = versions.prepare(stage.relay())
                versions.old.append(late)
                with pytest.raises(AssertionError):  # docs/decisions/0010
                    await versions.start(late)
                assert "the database is newer than this program" in late.output
            else:
                for new, old in zip(versions.new, versions.old, strict=True):
                    await replace(versions, browsers, new, old, how)
            await turns(browsers)
            verdict = await stage.settle(browsers, hurry=True)
        sessions = [browser.sessions for browser in browsers]
        await stage.stop_relays()
        condemned = list(tmp_path.glob("data/journal/condemned.jsonl"))

    assert verdict.told > upgraded.told > 0
    assert condemned == []
    assert sessions == [1] * PEOPLE, "somebody had to begin again"
