"""How this program was installed, for advice on how to add to it.

Its name is not ours on any package index: advice to install that name would be advice to install
what a stranger puts there.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import config

NAME = "voice-relay"


def say_how_to_add(extra: str) -> str:
    """The end of an error line: what to do to have the packages of an extra (pyproject.toml)."""
    checkout = Path(config.__file__).parents[1]
    if (checkout / "pyproject.toml").exists():
        command = f"pip install --editable {shlex.quote(f'{checkout}[{extra}]')}"
        return f"run `make setup` in {checkout}, or {command}"
    for found in importlib.metadata.distributions(name=NAME):
        # direct_url.json (PEP 610) is left by pip where it did not ask an index.
        text = found.read_text("direct_url.json")
        if text is not None:
            return f"pip install {shlex.quote(_requirement(json.loads(text), extra))}"
    return (
        f"install its extra {extra} from where this program was installed: `make setup` in a "
        f"checkout, pip install 'FILE.whl[{extra}]' with a wheel"
    )


def _requirement(source: dict[str, Any], extra: str) -> str:
    url = re.sub(r"(?<=https://)[^/@]*@|(?<=http://)[^/@]*@", "", source["url"])  # credentials
    if "dir_info" in source and url.startswith("file://"):
        return f"{unquote(urlsplit(url).path)}[{extra}]"
    if "vcs_info" in source:
        vcs = source["vcs_info"]
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    if source.get("subdirectory"):
        url += f"#subdirectory={source['subdirectory']}"
    return f"{NAME}[{extra}] @ {url}"
