"""The files that an operator begins with: the configuration to edit, and the environment."""

from __future__ import annotations

import ast
import inspect
import json
import os
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from config import limits
from config import settings as settings_module
from config.loader import json_schemas
from config.settings import CONFIG_DIR, VARIABLES

TO_EDIT = ("agent.yaml", "intents.yaml", "policy.yaml", "system_prompt.md")
ENVIRONMENT = "voice-relay.env"
HEAD = """\
# The environment of `voice-relay serve`, for systemd (EnvironmentFile=), containers (--env-file)
# and shells (set -a; . {path}). One value a line, without quotes; a shell needs
# single quotes around one with & ; $ or a space, which systemd takes too and containers do not.
# What has no # before it has to be set; the rest shows its default. It holds keys: nobody but the
# relay's account should read it.
"""


def write_starter(folder: Path) -> dict[Path, bool]:
    """Put into `folder` what is not there yet; each file, and whether it is new.

    Raises `OSError` when the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {name: (CONFIG_DIR / name).read_text("utf-8") for name in TO_EDIT}
    texts |= {name: json.dumps(schema, indent=2) + "\n" for name, schema in json_schemas().items()}
    texts[ENVIRONMENT] = make_environment(folder.absolute())
    return {folder / name: _write_new(folder / name, text) for name, text in texts.items()}


def make_environment(folder: Path) -> str:
    """Every variable with its meaning, for a configuration in `folder`."""
    known = dict(meanings())
    lines = [HEAD.format(path=folder / ENVIRONMENT)]
    for variable in VARIABLES:
        lines += [f"# {line}" for line in _wrapped(known[variable.field])]
        if variable.field == "config_dir":
            lines.append(f"{variable.name}={folder}")
        elif variable.default is None or variable.field == "auth":
            lines.append(f"{variable.name}=")
        else:
            lines.append(f"#{variable.name}={variable.default}")
        lines.append("")
    return "\n".join(lines)


def meanings() -> Iterator[tuple[str, str]]:
    """Each field of the settings and the text that stands below it."""
    for structs in (settings_module, limits):
        for struct in ast.walk(ast.parse(inspect.getsource(structs))):
            if isinstance(struct, ast.ClassDef):
                for field, below in pairwise(struct.body):
                    match field, below:
                        case (
                            ast.AnnAssign(target=ast.Name(id=name)),
                            ast.Expr(value=ast.Constant(value=str(text))),
                        ):
                            yield name, " ".join(text.split())


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 96)


def _write_new(path: Path, text: str) -> bool:
    try:
        # Of the environment, keys will stand in it.
        mode = 0o600 if path.name == ENVIRONMENT else 0o644
        with open(path, "x", encoding="utf-8", opener=lambda p, f: os.open(p, f, mode)) as file:
            file.write(text)
    except FileExistsError:
        return False
    return True
