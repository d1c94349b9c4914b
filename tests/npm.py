"""Packages from the npm registry, for tests: where they cannot be had a test skips and says why."""

from __future__ import annotations

import shutil

import pytest

from loadtests import npm


def need_node():
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("there is no Node.js with npm")


def install(folder, *packages):
    if why := npm.install(folder, *packages):
        pytest.skip(why)
