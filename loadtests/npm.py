"""Packages from the npm registry, for what runs on Node.js beside us.

Load tests, and the tests of browsers and JavaScript clients.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

INSTALL_SECONDS = 120
_QUIET = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock")


def install(folder: Path, *packages: str) -> str | None:
    """`npm install` in `folder`, with these packages and options. None: they are there; else why
    not."""
    try:
        done = subprocess.run(
            ["npm", "install", "--prefer-offline", *_QUIET, *packages],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"npm did not answer within {INSTALL_SECONDS} s"
    return f"npm cannot install: {done.stderr.strip()[-200:]}" if done.returncode else None
