"""`scripts/setup.sh` on machines that lack something: one clear line, and nothing is made."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "setup.sh"
TOO_OLD = "#!/bin/sh\nexit 1\n"
WITHOUT_VENV = '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexit 0\n'


def run(tmp_path, python):
    """The script with nothing in PATH but a shell's own tools and a `python3` of ours."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "rm"):
        (tools / name).symlink_to(shutil.which(name))
    if python is not None:
        (tools / "python3").write_text(python)
        (tools / "python3").chmod(0o755)
    return subprocess.run(
        [shutil.which("sh"), SCRIPT, tmp_path / "venv"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.mark.parametrize(
    ("python", "hint"),
    [
        (None, "Python 3.11 or newer is needed"),
        (TOO_OLD, "Python 3.11 or newer is needed"),
        (WITHOUT_VENV, "apt install python3-venv"),
    ],
    ids=["no python", "too old", "no venv"],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, python, hint):
    done = run(tmp_path, python)

    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: ")
    assert hint in line
    assert not (tmp_path / "venv").exists()
