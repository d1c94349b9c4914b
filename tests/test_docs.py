"""What is documented is tested to be documented, and what the documents name exists.

Each check is a function that lists what is missing; the last tests feed them a gap.
"""

from __future__ import annotations

import ast
import json
import re
from enum import Enum
from pathlib import Path

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator

from config.loader import load
from config.policy import Messages
from config.settings import CONFIG_DIR, STAND_INS, VARIABLES, from_environment
from control.admin.cli import admin
from control.app import create_app
from control.cli import main
from relay.core import message_policy
from relay.core.agent_lifecycle import State
from relay.core.events import EndReason
from relay.protocol import close_codes, deepgram, relay_events
from relay.protocol.relay_events import IntentStatus
from scripts import reference

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text("utf-8")
ADMINISTRATION = (ROOT / "docs/administration.md").read_text("utf-8")
PROTOCOL = (ROOT / "docs/protocol.md").read_text("utf-8")
ASYNCAPI = yaml.safe_load((ROOT / "docs/relay.asyncapi.yml").read_text("utf-8"))
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("relay/client/*.md")]
)

DEPLOYMENT = sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file())
OTHER_VARIABLES = {  # of other programs
    *("DEBIAN_FRONTEND", "GF_AUTH_ANONYMOUS_ENABLED", "POSTGRES_DB", "POSTGRES_PASSWORD"),
    *("POSTGRES_USER", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "RELAY_1", "RELAY_2"),
    "VOICE_RELAY_TOKEN",
}
# Words of systemd and of other files that look like variables.
OTHER_WORDS = {
    *("AF_INET", "AF_INET6", "AF_UNIX", "CURRENT_USER"),
    *("CKV_DOCKER_7", "CKV_K8S_11", "CKV_K8S_35", "CKV_K8S_43"),
}

EVENTS = relay_events.RelayEvent.__subclasses__()
WHAT_CLIENTS_SAY: dict[str, dict[str, object]] = {
    "Settings": {"audio": {}, "agent": {}},
    "UpdateListen": {"listen": {}},
    "UpdateThink": {"think": {}},
    "UpdateSpeak": {"speak": {}},
    "UpdatePrompt": {"prompt": "x"},
    "InjectUserMessage": {"content": "x"},
    "InjectAgentMessage": {"message": "x"},
    "FunctionCallResponse": {"name": "x", "content": "x"},
    "KeepAlive": {},
    "ForceEndTurn": {},
    "RelayConfirm": {"id": "01a20382-2a51-7c1e-9d0c-0f5b6c1d2e3f"},
    "RelayCancel": {"id": "01a20382-2a51-7c1e-9d0c-0f5b6c1d2e3f"},
    "RelayPlayout": {"seconds": 0.18},
}
OTHER_PROGRAMS = "relay/sandbox"  # its log is its own


def reference_page(name):
    return (reference.PAGES / f"{name}.md").read_text("utf-8")


def missing(names, text):
    """Those that do not stand in backticks somewhere; a word more before or after is fine."""
    spans = " ".join(re.findall(r"`([^`\n]+)`", text))
    return [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?!\w)", spans)]


def rows(text):
    """The cells of every table row."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def row_of(name, text):
    """The cells of the row that begins with `name`."""
    return next((cells for cells in rows(text) if f"`{name}`" in cells[0].split(",")[0]), None)


def section(title, text):
    """From the heading `title` to the next heading."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def examples(text):
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]


def sources(*rooms):
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            if not path.is_relative_to(ROOT / OTHER_PROGRAMS):
                yield ast.parse(path.read_text("utf-8"))


def first_texts(call_name, position=0, keyword=None):
    """The literal text that each call of a name in the sources has at `position`."""
    for tree in sources("relay", "control"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or name_of(node.func) != call_name:
                continue
            given = [k.value for k in node.keywords if k.arg == keyword] or node.args[position:]
            if given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str):
                yield given[0].value


def name_of(node):
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def logged_events():
    levels = [("debug", 0), ("info", 0), ("warning", 0), ("error", 0), ("exception", 0), ("log", 1)]
    levels.append(("critical", 0))
    texts = {text for name, position in levels for text in first_texts(name, position)}
    return {t.split()[0] for t in texts if re.match(r"[a-z]+(_[a-z]+)+\b", t)}


def names_of_tests():
    for path in ROOT.glob("tests/**/test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name


# --- the README ----------------------------------------------------------------------------------


def unknown_settings(text):
    """Names of environment variables that nothing reads; `text` is for who sets some."""
    text = re.sub(r"```sql\n.*?```", "", text, flags=re.DOTALL)
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", text))
    known = {variable.name for variable in VARIABLES}
    return named - known - OTHER_VARIABLES - OTHER_WORDS


def test_every_setting_of_the_documents_exists():
    known = {variable.name for variable in VARIABLES}
    for path in [*DOCUMENTS, *DEPLOYMENT]:
        named = set(re.findall(r"\bRELAY_[A-Z_]*[A-Z]\b", path.read_text("utf-8")))
        assert named <= known, path


@pytest.mark.parametrize(
    "path",
    [ROOT / "docs/deploy.md", ROOT / "docs/operate.md", *DEPLOYMENT],
    ids=lambda path: path.name,
)
def test_who_deploys_is_told_of_no_variable_that_nothing_reads(path):
    assert unknown_settings(path.read_text("utf-8")) == set()


def test_every_command_is_in_the_readme():
    assert (
        missing([f"voice-relay {n}" for n, one in main.commands.items() if not one.hidden], README)
        == []
    )


def test_every_command_and_option_of_the_readme_exists():
    for line in re.findall(r"voice-relay ([a-z]+ [^\n#`]*)", README):
        name, *words = line.split()
        assert name in main.commands, line
        known = {o for parameter in main.commands[name].params for o in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


# --- architecture --------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ["config", "relay", "control"])
def test_every_file_of_a_room_is_in_the_walk(room):
    paths = (ROOT / room).rglob("*.py")
    names = [p.name for p in paths if p.name != "__init__.py" and "sandbox" not in p.parts]
    walk = section("The rooms", ARCHITECTURE)

    assert [name for name in names if not re.search(rf"(?<!\w){name}", walk)] == []


def test_every_file_of_the_walk_exists():
    named = re.findall(r"\b[a-z_]+\.(?:py|yaml|md)\b", section("The rooms", ARCHITECTURE))
    there = {path.name for path in ROOT.glob("**/*") if ".venv" not in path.parts}

    assert [name for name in named if name not in there] == []


def test_every_state_is_in_the_life_of_a_session():
    life = section("The life of a session", ARCHITECTURE)

    assert missing([state.name for state in State], life) == []


# --- reference -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.TABLES)
def test_the_tables_of_the_reference_are_what_the_command_makes(name):
    text = PROTOCOL if name == "deepgram_settings" else reference_page(name)

    assert f"<!-- made: {name} -->" in text
    assert reference.remade(text) == text, "run `make docs`"


def test_the_table_of_settings_has_all_that_a_session_does_with_one():
    _, *fields = reference.deepgram_settings()
    became = {name.strip("`"): what for name, _, what in fields}

    assert set(became) >= {*reference.SET, *reference.HONOURED}
    passed = {name for name, what in became.items() if what == "passed"}
    assert passed == {"audio.input", "audio.output"}
    assert became["agent.think.prompt"] == "withheld"


@pytest.mark.parametrize("name", reference.SCHEMAS)
def test_the_schemas_of_the_reference_are_what_the_command_makes(name):
    text = (reference.PAGES / f"{name}.schema.json").read_text("utf-8")

    assert text == reference.schema(name), "run `make docs`"
    Draft202012Validator.check_schema(json.loads(text))
    shape = reference.SCHEMAS[name]
    fields = {*shape.__struct_fields__, *({"type"} if shape.__struct_config__.tag else set())}
    (example,) = [e for e in examples(reference_page("orchestrator")) if set(e) == fields]
    assert list(Draft202012Validator(json.loads(text)).iter_errors(example)) == []


def test_every_reason_to_end_has_its_row():
    ends = section("Ends", reference_page("close_codes"))

    assert [r.value for r in EndReason if row_of(r.value, ends) is None] == []


def test_the_log_events_are_those_of_the_program():
    cells = [row[0] for row in rows(reference_page("log_events"))]
    listed = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    events = logged_events() | set(first_texts("Note"))

    assert {"session_ended", "journal_full", "agent_warning", "orchestrator_rejected"} <= events
    assert listed == events


# --- protocol ------------------------------------------------------------------------------------


def routes():
    return routes_of(create_app(from_environment(STAND_INS), load(CONFIG_DIR, {})))


def routes_of(app):
    paths = app.openapi_schema.paths
    methods = ("get", "post", "put", "patch", "delete")
    for path, item in paths.items():
        yield from (f"{m.upper()} {path}" for m in methods if getattr(item, m) is not None)


def test_every_route_is_in_the_protocol():
    found = list(routes())

    assert "DELETE /api/v1/voice/conversations/{conversation_id}" in found
    assert missing([*found, "GET /metrics", "GET /schema"], PROTOCOL) == []


def test_every_route_for_administrators_is_on_their_page():
    given = {"RELAY_ADMIN_KEY": "k" * 16, "RELAY_METRICS_PORT": "9"}
    settings = from_environment(STAND_INS | given)
    app = create_app(settings, load(CONFIG_DIR, {})).state.operations
    found = list(routes_of(app))

    assert "DELETE /admin/api/user" in found
    assert missing([*found, "GET /admin/schema"], ADMINISTRATION) == []


def test_every_command_for_administrators_is_on_their_page():
    text = section("The command", ADMINISTRATION)

    assert [n for n in admin.commands if not re.search(rf"\b{n}\b", text)] == []


def test_every_act_is_described():
    acts = {text for text in first_texts("note", 2) if "." in text}
    acts |= {"user.erase", "intents.retry", "intents.discard"}

    assert {"session.hang_up", "user.export"} <= acts
    assert missing(sorted(acts), section("The audit log", ADMINISTRATION)) == []


def test_every_code_of_an_error_is_in_the_protocol():
    codes = {*first_texts("Refused", 1), *first_texts("ProblemError", 1)}

    assert {"ticket_refused", "not_found", "transport_not_enabled"} <= codes
    assert missing(sorted(codes), PROTOCOL) == []


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_event_of_ours_has_examples_that_fit_and_all_its_fields(event):
    text = section(event.__name__, PROTOCOL)
    shown = examples(text)
    fields = {"type", *event.__struct_fields__}

    assert shown
    for example in shown:
        assert json.loads(deepgram.encode(msgspec.convert(example, event))) == example
    assert fields == {name for example in shown for name in example}
    assert set(re.findall(r'"(\w+)":', text)) >= fields


def test_every_code_of_relay_error_is_described():
    codes = set(first_texts("RelayError", keyword="code"))

    assert {"not_allowed", "setup_timeout"} <= codes
    assert missing(sorted(codes), section("RelayError", PROTOCOL)) == []
    described = ASYNCAPI["components"]["schemas"]["RelayError"]["properties"]["code"]["enum"]
    assert set(described) == codes


def test_every_status_of_an_intent_is_described():
    statuses = [status.value for status in IntentStatus]
    schema = ASYNCAPI["components"]["schemas"]["RelayIntent"]["properties"]["status"]

    assert missing(statuses, section("RelayIntent", PROTOCOL)) == []
    assert missing(statuses, section("Intent statuses", reference_page("close_codes"))) == []
    assert schema["enum"] == statuses


def close_code_mistakes(text):
    table = section("Close codes", text)
    codes = {n: v for n, v in vars(close_codes).items() if n.isupper() and isinstance(v, int)}
    found = []
    for name, code in codes.items():
        if name.startswith("_"):
            continue
        if name in ("NO_STATUS", "ABNORMAL"):
            known = f"{code} (`{name}`)" in table
        else:
            cells = row_of(name, "\n".join(f"|{'|'.join(c[1:])}|" for c in rows(table)))
            known = cells is not None and any(
                c[:2] == [str(code), f"`{name}`"] and c[-1] for c in rows(table)
            )
        if not known:
            found.append(name)
    return found


def test_every_close_code_has_its_row_and_says_whether_to_come_again():
    assert close_code_mistakes(PROTOCOL) == []


def test_what_a_browser_may_send_is_what_policy_lets_pass():
    known = (*deepgram.ClientMessage.__args__, *relay_events.Own.__args__)
    assert set(WHAT_CLIENTS_SAY) == {s.__name__ for s in known}
    said = {
        name: relay_events.decode_browser(json.dumps({"type": name, **fields}).encode())
        for name, fields in WHAT_CLIENTS_SAY.items()
    }
    allowed = {
        name
        for name, message in said.items()
        if message_policy.refusal(message, Messages()) is None
    }
    described = ASYNCAPI["channels"]["/api/v1/voice/session/{session_id}/ws"]["publish"]
    names = {one["$ref"].rsplit("/", 1)[1] for one in described["message"]["oneOf"]}

    assert names == allowed | {"MicrophoneAudio"}
    assert missing(sorted(allowed), section("What the browser may send", PROTOCOL)) == []
    assert str(Messages().InjectUserMessage.max_characters) in section(
        "What the browser may send", PROTOCOL
    )


def test_every_named_test_exists():
    named = set(re.findall(r"`(test_\w+)`", PROTOCOL + ARCHITECTURE))

    assert len(named) > 10
    assert named - set(names_of_tests()) == set()


def guards():
    """Number of a breakage to the tests that its row names."""
    table = section("4. What breaks elsewhere", PROTOCOL)
    return {
        int(cells[0]): set(re.findall(r"`(test_\w+)`", cells[-1]))
        for cells in rows(table)
        if cells[0].isdigit()
    }


def test_each_of_the_dozen_has_a_guard():
    assert list(guards()) == list(range(1, 13))
    assert all(guards().values())


def test_the_numbers_in_the_tests_are_those_of_the_table():
    source = (ROOT / "tests/relay/live/test_session_runner.py").read_text("utf-8")
    marked = re.findall(r"def (test_\w+)\(.*\):  # \[([\d, ]+)\]", source)

    assert len(marked) >= 8
    for name, numbers in marked:
        for number in map(int, numbers.split(",")):
            assert name in guards()[number], f"{name} says [{number}]"


# --- the AsyncAPI description --------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_event_of_ours_is_in_the_asyncapi_as_it_is(event):
    schema = ASYNCAPI["components"]["schemas"][event.__name__]
    needed = [f.encode_name for f in msgspec.structs.fields(event) if f.required]
    subscribed = ASYNCAPI["channels"]["/api/v1/voice/session/{session_id}/ws"]["subscribe"]

    assert set(schema["properties"]) == {"type", *event.__struct_fields__}
    assert schema["required"] == ["type", *needed]
    assert schema["properties"]["type"] == {"const": event.__name__}
    assert {"$ref": f"#/components/messages/{event.__name__}"} in subscribed["message"]["oneOf"]


def test_no_event_of_the_asyncapi_is_invented():
    described = {n for n in ASYNCAPI["components"]["schemas"] if n.startswith("Relay")}

    said = relay_events.Own.__args__
    assert described == {event.__name__ for event in (*EVENTS, *said)}


@pytest.mark.parametrize("name", sorted(ASYNCAPI["components"]["messages"]))
def test_the_examples_of_the_asyncapi_fit_its_schemas(name):
    message = ASYNCAPI["components"]["messages"][name]
    schema = {**message["payload"], "components": ASYNCAPI["components"]}
    if message.get("contentType") == "application/octet-stream":
        return

    assert message["examples"]
    for example in message["examples"]:
        Draft202012Validator(schema).validate(example["payload"])


NOT_PASSED = {"FunctionCallRequest", "FunctionCallCancelled", "FunctionCallResponse", "History"}


def test_the_events_of_deepgram_that_pass_are_in_the_asyncapi():
    known, _ = ASYNCAPI["components"]["schemas"]["DeepgramEvent"]["properties"]["type"]["anyOf"]
    told = ASYNCAPI["components"]["messages"]["DeepgramEvent"]["description"]

    assert set(known["enum"]) == {m.__name__ for m in deepgram.ServerMessage.__args__} - NOT_PASSED
    assert [name for name in NOT_PASSED if name not in told] == []


# --- links, and the checks themselves ------------------------------------------------------------


def link_mistakes(path, text):
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        if file.is_file() and anchor:
            linked = file.read_text("utf-8") if name else text
            found += [target] if anchor not in anchors(linked) else []
        elif not file.exists():
            found.append(target)
    return found


def anchors(text):
    """The anchors of the headings, as GitHub makes them."""
    for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    assert link_mistakes(path, path.read_text("utf-8")) == []


def test_a_name_that_is_not_documented_is_found():
    text = "`relay_frames_total` and `GET /health/live`, but journal_full"

    assert missing(["relay_frames_total", "relay_frames", "journal_full"], text) == [
        "relay_frames",
        "journal_full",
    ]
    assert missing(["GET /health", "ET /health/live"], text) == ["ET /health/live"]


def test_a_table_that_is_not_what_the_code_says_is_found():
    text = reference_page("settings")

    assert reference.remade(text.replace("`RELAY_PORT` | `8080`", "`RELAY_PORT` | `80`")) == text


def test_a_close_code_that_is_gone_is_found():
    assert close_code_mistakes(PROTOCOL.replace("| 1014 |", "| 1015 |")) == ["AGENT_UNREACHABLE"]
    assert close_code_mistakes(PROTOCOL.replace("1006 (`ABNORMAL`)", "1006")) == ["ABNORMAL"]


def test_a_link_that_leads_nowhere_is_found():
    text = "# A title\n[a](#a-title) [b](#b) [c](docs/nothing.md) [d](docs/protocol.md#1-rest)"

    assert link_mistakes(ROOT / "README.md", text) == ["#b", "docs/nothing.md"]


def test_a_row_is_found_by_its_first_name_only():
    assert row_of("a", "| `a`, `b` | 1 |") == ["`a`, `b`", "1"]
    assert row_of("b", "| `a`, `b` | 1 |") is None


def test_the_enums_are_not_empty():
    assert all(isinstance(member, Enum) for member in [*EndReason, *State])
    assert len(EndReason) > 10
