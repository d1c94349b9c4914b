"""A small file system of a test's own and what fills it; files that others write and remove."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def mounted(place, size):
    """`place` is a tmpfs of `size` ("512k") while inside; the test is skipped where none can be."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill_up(path):
    try:
        with path.open("wb", buffering=0) as filling:
            while filling.write(b"x" * 4096):
                pass
    except OSError:
        pass  # full


def files_with(directory, text):
    """The names of the files below a directory that have this text in them.

    Others may write and remove files meanwhile: one that goes while we look has it no more.
    """
    found = []
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    if text.encode() in file.read():
                        found.append(name)
            except FileNotFoundError:
                pass
    return found
