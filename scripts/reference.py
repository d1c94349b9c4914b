"""Makes what the code knows of the docs, tables and a JSON Schema: `make docs`.

A table stands between `<!-- made: NAME -->` and `<!-- end -->`; the text around it is written by
hand.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec

from config import limits
from config import settings as settings_module
from config.agent import Agent, Think
from config.loader import load
from config.settings import CONFIG_DIR, VARIABLES
from control.outbox.events import ConversationEnded
from relay.core import message_policy
from relay.core.actions import SendSettings
from relay.core.admitted import Admitted
from relay.core.deepgram_session import DeepgramSession
from relay.core.events import AgentOpened, FromAgent, FromBrowser
from relay.core.session import Session
from relay.core.user_context import UserContext
from relay.protocol import deepgram
from relay.sandbox import settings_check
from relay.telemetry.metrics import METRICS, TIMES

DOCS = Path(__file__).parents[1] / "docs"
PAGES = DOCS / "reference"
# JSON Schemas of what passes between us and the Orchestrator, by the names of their files.
SCHEMAS = {"voice-context": UserContext, "conversation-ended": ConversationEnded}

# Objects of Settings that have a row for each of their fields.
OPENED = ("audio", "flags", "agent", "context", "think")
# What does not simply stand in agent.yaml.
SET = {
    "audio.input": "agent.yaml, or what the browser asks for",
    "audio.output": "agent.yaml, or what the browser asks for",
    "tags": "agent.yaml, `{user}` and `{conversation}` filled in",
    "flags.history": "`true`, always",
    "agent.context.messages": "the history, where there is one",
    "agent.greeting": "agent.yaml or the Orchestrator, where there is no history",
    "agent.think.functions": "intents.yaml",
    "agent.think.prompt": "system_prompt.md, filled in",
}
# What is done with a field of a client beside passing it on or not.
HONOURED = {
    "flags.history": "changed to `true`; `false` keeps the reports from the client",
    "mip_opt_out": "passed if it is `true`",
}


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


def deepgram_settings() -> Iterator[tuple[str, ...]]:
    """Each field of Deepgram's Settings, and what comes of one that a client has set."""
    yield "field", "set from", "of a Deepgram client's Settings"
    paths = list(_paths("Settings"))
    side = {"encoding": "mulaw", "sample_rate": 8000}
    audio = {"input": side, "output": side | {"container": "none"}}
    client: dict[str, Any] = {"type": "Settings", "audio": audio}
    for path in paths:
        _put(client, path, [path] if path == "tags" else path != "flags.history")
    sent = msgspec.to_builtins(_sent_for(client))
    for path in paths:
        is_passed = _get(sent, path) == _get(client, path)
        known = path.rpartition(".")[2] in (*Agent.__struct_fields__, *Think.__struct_fields__)
        source = SET.get(path, "agent.yaml" if known else "not sent")
        yield _code(path), source, HONOURED.get(path, "passed" if is_passed else "withheld")


def _paths(kind: str, inside: str = "") -> Iterator[str]:
    for name in settings_check.field_names(kind):
        if name in OPENED:
            yield from _paths(name, f"{inside}{name}.")
        else:
            yield inside + name


def _put(settings: dict[str, Any], path: str, value: object) -> None:
    *outer, last = path.split(".")
    for name in outer:
        settings = settings.setdefault(name, {})
    settings.setdefault(last, value)


def _get(settings: Any, path: str) -> object:
    for name in path.split("."):
        settings = settings[0] if isinstance(settings, list) else settings
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


def _sent_for(client: dict[str, Any]) -> deepgram.Settings:
    """The Settings that an agent is sent for a client with these."""
    configuration = load(CONFIG_DIR, {})
    admitted = Admitted(
        session_id=UUID(int=0),
        conversation_id=UUID(int=0),
        user_id="user",
        timezone="UTC",
        audio=configuration.agent.audio,
        history=[deepgram.History(role="user", content="Hello.")],
    )

    def begin(admitted: Admitted, now: float) -> Session:
        return Session(
            admitted,
            lambda history, context: message_policy.settings(
                configuration, admitted, date(2026, 1, 1), history, context
            ),
            now=now,
            began=datetime(2026, 1, 1, tzinfo=UTC),
            limits=limits.Limits(),
            policy=configuration.policy,
            new_id=uuid4,
            jitter=lambda: 0.0,
            new_ticket=lambda: "ticket",
        )

    session = DeepgramSession(admitted, configuration.agent, begin, 0.0)
    for event in (AgentOpened(), FromAgent(deepgram.Welcome(request_id="of the agent"))):
        session.handle(event, 0.0)
    asked = session.handle(FromBrowser(msgspec.convert(client, deepgram.Settings)), 0.0)
    (sent,) = [action.settings for action in asked if isinstance(action, SendSettings)]
    return sent


TABLES = {"settings": settings, "metrics": metrics, "deepgram_settings": deepgram_settings}


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


def schema(name: str) -> str:
    """The JSON Schema of this file."""
    made = msgspec.json.schema(SCHEMAS[name])
    for shape in made["$defs"].values():
        if "description" in shape:
            shape["description"] = " ".join(shape["description"].split())
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | made, indent=2) + "\n"


if __name__ == "__main__":
    for name in SCHEMAS:
        (PAGES / f"{name}.schema.json").write_text(schema(name), "utf-8")
    for page in (*PAGES.glob("*.md"), DOCS / "protocol.md"):
        page.write_text(remade(page.read_text("utf-8")), "utf-8")
