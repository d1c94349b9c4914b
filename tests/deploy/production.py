"""What the image has, without an image: the files that it copies, installed as it installs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "deploy/Containerfile"


def instructions(name):
    """The arguments of each instruction of this name, in order; lines that go on are one."""
    text = CONTAINERFILE.read_text("utf-8").replace("\\\n", " ")
    return re.findall(rf"^\s*{name} +(.+)$", text, re.MULTILINE)


def last(name):
    """Of the instruction that counts: the command, as a list."""
    return json.loads(instructions(name)[-1])


def environment():
    """What the image sets; PATH is without the part that it had before."""
    pairs = [re.fullmatch(r"(\w+)=(\S+)", word) for word in " ".join(instructions("ENV")).split()]
    return {pair[1]: pair[2].removesuffix(":$PATH") for pair in pairs if pair}


def copy_sources(folder):
    """The files that the image is made of, and nothing else."""
    for line in instructions("COPY"):
        *names, target = line.split()
        if names[0].startswith("--from"):
            continue
        for name in names:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, folder / target, ignore=ignore)
            else:
                shutil.copy(source, folder / target)


def python_for_everybody():
    """An interpreter that other accounts may run; ours may be within a home."""
    for name in (sys.executable, "/usr/bin/python3"):
        path = Path(name).resolve()
        mine = all(parent.stat().st_mode & 0o001 for parent in path.parents)
        if (os.geteuid() != 0 or mine) and _can_make_environments(path):
            return str(path)
    return None


def _can_make_environments(python):
    code = "import sys, venv; sys.exit(sys.version_info < (3, 11))"
    return python.exists() and subprocess.run([str(python), "-c", code]).returncode == 0


def install(folder, python):
    """The environment of the image in `folder`; its sources go afterwards."""
    sources = folder / "src"
    sources.mkdir()
    copy_sources(sources)
    made = folder / "voice-relay"
    subprocess.run([python, "-m", "venv", "--without-pip", str(made)], check=True, timeout=60)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(made / "bin/python"), "install"),
            *("--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt", "."),
        ],
        cwd=sources,
        check=True,
        timeout=240,
    )
    shutil.rmtree(sources)
    return made
