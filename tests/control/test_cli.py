"""The command line, each command in a process of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import config

VOICE_RELAY = str(Path(sys.executable).with_name("voice-relay"))
REQUIRED = {
    "DEEPGRAM_API_KEY": "the-secret-key",
    "DATABASE_URL": "postgresql://user:the-password@127.0.0.1:1/nothing",
    "ORCHESTRATOR_URL": "http://127.0.0.1:1",
    "RELAY_AUTH": "mock",
}


def run(*arguments, **environ):
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RELAY_") and name not in REQUIRED
    }
    return subprocess.run(
        [VOICE_RELAY, *arguments], env=clean | environ, capture_output=True, text=True, timeout=50
    )


def mistakes(done):
    """What it says on standard error, but for the first line of its log."""
    return [line for line in done.stderr.splitlines() if "program_started" not in line]


COMMANDS = [
    "admin",
    "check",
    "dev",
    "doctor",
    "eval",
    "init",
    "loadtest",
    "migrate",
    "orchestrator",
    "replay",
    "restore",
    "sandbox",
    "serve",
    "talk",
    "timeline",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = run(command, "--help")

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 5


def test_the_help_lists_every_command_with_a_whole_sentence():
    listed = run("--help").stdout.split("Commands:")[1].strip().splitlines()

    assert [line.split()[0] for line in listed] == COMMANDS
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


def test_check_shows_the_settings_and_no_secret():
    done = run("check", **REQUIRED)

    assert done.returncode == 0, done.stderr
    settings = json.loads(done.stdout)
    assert settings["type"] == "Settings"
    assert len(settings["agent"]["think"][0]["functions"]) == 3
    assert "the-secret-key" not in done.stdout + done.stderr
    assert "the-password" not in done.stdout + done.stderr


def test_check_without_an_environment_says_what_serve_needs():
    done = run("check")

    assert done.returncode == 0
    for name in REQUIRED:
        assert f"{name} is not set" in done.stderr


def test_check_prints_every_mistake_of_files_and_environment(tmp_path):
    folder = tmp_path / "config"
    shutil.copytree(Path(config.__file__).parent, folder)
    (folder / "intents.yaml").write_text(
        (folder / "intents.yaml").read_text().replace(" path: /goals", " path: goals", 1)
    )
    (folder / "system_prompt.md").write_text("Today is {tody}.")

    done = run("check", RELAY_CONFIG_DIR=str(folder), RELAY_PORT="many")

    assert done.returncode == 1
    assert "intents.yaml: $.intents[0].path" in done.stderr
    assert "system_prompt.md" in done.stderr
    assert "RELAY_PORT" in done.stderr
    assert "3 mistakes" in done.stderr


def test_a_missing_environment_is_told_whole():
    done = run("serve")

    assert done.returncode == 1
    assert all(name in done.stderr for name in REQUIRED)
    assert "Traceback" not in done.stderr


def test_serve_does_not_start_before_it_is_said_who_signs_users_in(tmp_path):
    right = REQUIRED | {"RELAY_PORT": "0", "RELAY_DATA_DIR": str(tmp_path)}
    del right["RELAY_AUTH"]
    done = run("serve", **right)

    assert done.returncode == 1
    (line,) = mistakes(done)
    assert "RELAY_AUTH" in line
    assert "mock" in line


@pytest.mark.parametrize("command", ["serve", "migrate", "dev"])
def test_a_database_that_does_not_answer_is_one_clear_line(command, tmp_path):
    done = run(command, **REQUIRED | {"RELAY_PORT": "0", "RELAY_DATA_DIR": str(tmp_path)})

    assert done.returncode == 1
    (line,) = mistakes(done)
    assert "the database does not answer" in line
    assert "DATABASE_URL" in line
    assert "the-password" not in line


@pytest.mark.parametrize("command", ["serve", "dev"])
def test_a_port_in_use_is_one_clear_line(command, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(command, **REQUIRED | {"RELAY_PORT": port, "RELAY_DATA_DIR": str(tmp_path)})

    assert done.returncode == 1
    (line,) = mistakes(done)
    assert f"port {port}" in line
    assert "RELAY_PORT" in line


def test_a_data_directory_that_cannot_be_written_is_one_clear_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")

    done = run("dev", RELAY_PORT="0", RELAY_DATA_DIR=str(blocked / "data"))

    assert done.returncode == 1
    (line,) = mistakes(done)
    assert "RELAY_DATA_DIR" in line


def test_talk_to_nobody_is_one_clear_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = run("talk", "--url", url, "--say", "hello")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert url in done.stderr + done.stdout


def test_talk_keeps_the_order_of_spoken_and_typed_inputs(tmp_path):
    missing = tmp_path / "missing.wav"

    done = run("talk", "--say", "one", "--wav", str(missing), "--say", "two")

    assert done.returncode == 2
    assert "missing.wav" in done.stderr + done.stdout


@pytest.mark.parametrize("command", ["orchestrator", "migrate"])
def test_what_needs_a_database_alone_asks_for_it_alone(command):
    done = run(command)

    assert done.returncode == 1
    assert "DATABASE_URL" in done.stderr
