"""Something is not installed: what is said to do is right where this program was installed from.

Its name is not ours on any package index, so nobody is told to install that name from there.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import config
from config.install_advice import say_how_to_add

ROOT = Path(__file__).parents[2]
FROM_AN_INDEX = re.compile(r"""(pip install|install)\s+['"]?voice-relay(\[\w+\])?+['"]?+(?! ?@)""")


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """As if installed so: `installed(direct_url)` with the content of direct_url.json, or None."""

    def install(direct_url):
        folder = tmp_path / "site-packages"
        info = folder / "voice_relay-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: voice-relay\nVersion: 0.1.0\n")
        if direct_url is not None:
            (info / "direct_url.json").write_text(json.dumps(direct_url))
        monkeypatch.setattr(sys, "path", [str(folder)])
        importlib.invalidate_caches()
        (folder / "config").mkdir()
        monkeypatch.setattr(config, "__file__", str(folder / "config/__init__.py"))
        return say_how_to_add("dev")

    return install


def requirement_of(advice):
    """What pip is told to install, as the shell hands it on."""
    words = shlex.split(advice)
    assert words[:2] == ["pip", "install"]
    (requirement,) = words[2:]
    return requirement


def test_in_a_checkout_it_is_make_setup_or_that_folder():
    advice = say_how_to_add("dev")

    assert "`make setup`" in advice
    assert f"--editable '{ROOT}[dev]'" in advice


@pytest.mark.parametrize(
    ("direct_url", "wanted"),
    [
        ({"url": "file:///srv/relay", "dir_info": {}}, "/srv/relay[dev]"),
        ({"url": "file:///srv/my%20relay", "dir_info": {"editable": True}}, "/srv/my relay[dev]"),
        (
            {"url": "file:///tmp/voice_relay-0.1.0-py3-none-any.whl", "archive_info": {}},
            "voice-relay[dev] @ file:///tmp/voice_relay-0.1.0-py3-none-any.whl",
        ),
        (
            {"url": "https://clerk:secret@files.example.com/relay.whl", "archive_info": {}},
            "voice-relay[dev] @ https://files.example.com/relay.whl",
        ),
        (
            {
                "url": "https://token@git.example.com/relay.git",
                "vcs_info": {"vcs": "git", "commit_id": "0123abc"},
            },
            "voice-relay[dev] @ git+https://git.example.com/relay.git@0123abc",
        ),
        (
            {
                "url": "ssh://git@git.example.com/all.git",
                "vcs_info": {"vcs": "git", "commit_id": "0123abc"},
                "subdirectory": "relay",
            },
            "voice-relay[dev] @ git+ssh://git@git.example.com/all.git@0123abc#subdirectory=relay",
        ),
    ],
)
def test_elsewhere_it_is_the_place_it_was_installed_from(installed, direct_url, wanted):
    advice = installed(direct_url)

    assert requirement_of(advice) == wanted
    assert "secret" not in advice
    assert "token" not in advice


def test_where_nobody_knows_it_says_that_and_no_name(installed):
    advice = installed(None)

    assert "where this program was installed" in advice
    assert not FROM_AN_INDEX.search(advice)


WITHOUT = """
import sys
sys.modules[{module!r}] = None
from control.cli import main
main({arguments!r})
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("websockets", ["talk", "--say", "hello"]),
        ("numpy", ["sandbox"]),
        ("faster_whisper", ["sandbox"]),
        ("numpy", ["dev"]),
    ],
)
def test_a_command_without_its_packages_is_one_line_that_says_so(module, arguments, tmp_path):
    code = WITHOUT.format(module=module, arguments=arguments)

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "RELAY_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "is not installed: " in line
    assert say_how_to_add("sandbox") in line or say_how_to_add("dev") in line


def test_no_text_of_ours_advises_a_name_from_an_index():
    rooms = ("config", "relay", "control", "loadtests", "docs", "deploy")
    files = [path for room in rooms for path in (ROOT / room).rglob("*") if path.is_file()]
    for path in [*files, *ROOT.glob("*.md")]:
        if path.suffix in (".py", ".md", ".sh", ".yaml", ".html", ".js"):
            found = FROM_AN_INDEX.search(path.read_text("utf-8"))
            assert found is None, f"{path}: {found[0]}"
            assert "install voice-relay[" not in path.read_text("utf-8"), path


def test_the_check_finds_a_violation():
    for text in (
        "pip install 'voice-relay[dev]'",
        "pip install voice-relay",
        "install voice-relay",
    ):
        assert FROM_AN_INDEX.search(text), text
    assert not FROM_AN_INDEX.search("pip install 'voice-relay[dev] @ file:///x'")
