"""`voice-relay init`: what it writes is what the program reads."""

from __future__ import annotations

import subprocess

from config.settings import VARIABLES
from config.starter import ENVIRONMENT, TO_EDIT
from tests.control.test_cli import REQUIRED, VOICE_RELAY, run


def test_a_folder_is_filled_and_works_as_the_last_lines_say(tmp_path):
    folder = tmp_path / "etc" / "voice-relay"

    done = run("init", str(folder))

    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {
        *TO_EDIT,
        ENVIRONMENT,
        "agent.schema.json",
        "intents.schema.json",
        "policy.schema.json",
        "scenario.schema.json",
    }
    environment = folder / ENVIRONMENT
    assert environment.stat().st_mode & 0o777 == 0o600
    assert f". {environment}; set +a" in done.stdout
    text = environment.read_text("utf-8")
    for name, value in REQUIRED.items():
        assert f"\n{name}=\n" in text
        text = text.replace(f"\n{name}=\n", f"\n{name}={value}\n")
    environment.write_text(text)
    checked = subprocess.run(
        ["sh", "-c", f"set -a; . {environment}; set +a; exec {VOICE_RELAY} check"],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stderr.splitlines() == [f"{folder} is fine"]


def test_every_variable_is_in_the_environment_once_with_its_meaning(tmp_path):
    run("init", str(tmp_path))
    lines = (tmp_path / ENVIRONMENT).read_text("utf-8").splitlines()

    for variable in VARIABLES:
        (place,) = [
            n for n, line in enumerate(lines) if line.lstrip("#").startswith(f"{variable.name}=")
        ]
        assert lines[place - 1].startswith("# ")
        assert (lines[place][0] == "#") is (
            variable.default is not None and variable.name not in ("RELAY_AUTH", "RELAY_CONFIG_DIR")
        )


def test_what_is_there_stays(tmp_path):
    (tmp_path / "agent.yaml").write_text("mine")

    done = run("init", str(tmp_path))

    assert done.returncode == 0
    assert (tmp_path / "agent.yaml").read_text() == "mine"
    assert f"kept  {tmp_path / 'agent.yaml'}" in done.stdout
    assert f"wrote {tmp_path / 'intents.yaml'}" in done.stdout


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")

    done = run("init", str(tmp_path / "file" / "folder"))

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot be written" in line
