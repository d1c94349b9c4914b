"""Makes what the code knows of docs/reference, tables and a JSON Schema: `make docs`.

A table stands between `<!-- made: NAME -->` and `<!-- end -->`; the text around it is written by
hand.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec

from config import limits
from config import settings as settings_module
from config.settings import VARIABLES
from relay.core.user_context import UserContext
from relay.telemetry.metrics import METRICS, TIMES

PAGES = Path(__file__).parents[1] / "docs" / "reference"
SCHEMA = PAGES / "voice-context.schema.json"


def settings() -> Iterator[tuple[str, ...]]:
    yield "variable", "default", "meaning"
    meanings = dict(_meanings())
    for variable in VARIABLES:
        default = "required" if variable.default is None else _code(variable.default)
        if " " in default:
            default = default.strip("`")  # words, not a value
        yield _code(variable.name), default, meanings[variable.field]


def _meanings() -> Iterator[tuple[str, str]]:
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


def metrics() -> Iterator[tuple[str, ...]]:
    yield "metric", "type", "labels", "meaning"
    for row in METRICS:
        kind = row.kind.__name__.lower()
        labels = "; ".join(f"`{label}`: {values}" for label, values in row.labels.items())
        suffix = "_total" if kind == "counter" else ""
        yield _code(f"{row.name}{suffix}"), kind, labels, row.help
    for name, meaning in TIMES.items():
        yield _code(f"relay_{name}_seconds"), "histogram", "", meaning


TABLES = {"settings": settings, "metrics": metrics}


def remade(text: str) -> str:
    """The text of a page with its tables as the code has them now."""
    return re.sub(
        r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{_table(found[2])}{found[3]}",
        text,
        flags=re.DOTALL,
    )


def _table(name: str) -> str:
    head, *body = TABLES[name]()
    rows = [head, ("---",) * len(head), *body]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def schema() -> str:
    """The JSON Schema of what an Orchestrator may answer about a user."""
    made = msgspec.json.schema(UserContext)
    shape = made["$defs"]["UserContext"]
    shape["description"] = " ".join(shape["description"].split())
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | made, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema(), "utf-8")
    for page in PAGES.glob("*.md"):
        page.write_text(remade(page.read_text("utf-8")), "utf-8")
