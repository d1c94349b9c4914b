"""Packages from the npm registry, for tests of browsers and of JavaScript clients."""

from __future__ import annotations

import shutil
import subprocess

import pytest

INSTALL_SECONDS = 120
_QUIET = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock")


def need_node():
    """Skips the test where there is no Node.js."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("there is no Node.js with npm")


def install(folder, *packages):
    """`npm install` in `folder`, with these packages and options; where that is not possible the
    test skips and says why."""
    try:
        done = subprocess.run(
            ["npm", "install", "--prefer-offline", *_QUIET, *packages],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not answer within {INSTALL_SECONDS} s")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install: {done.stderr.strip()[-200:]}")
