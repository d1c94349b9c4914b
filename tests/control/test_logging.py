"""What is logged: one line a record that strict readers take; of an exception where and of which
kind, not what it may quote; of a library no value."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import re
import sys
import threading
import warnings
from pathlib import Path

import asyncpg
import pytest

from control import logging as ours
from control.logging import Formatter, describe_error, format_error
from relay.telemetry.log_context import LogContext, current
from tests.logfmt import read_line, read_lines

ROOT = Path(__file__).parents[2]
SECRET = "what somebody said"
ODD = 'a "b" = c\\d\n\t\x00\x7f\x85\u2028ü🙂\ud800'


def caught(error, cause=None):
    try:
        raise error from cause
    except Exception as found:
        return found


def record(text, *values, logger="relay.live", error=None, level=logging.INFO):
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord(logger, level, __file__, 1, text, values, info)


def both(one):
    """The record as either format's reader has it; each is one line."""
    as_logfmt, as_json = Formatter().format(one), Formatter("json").format(one)
    for line in (as_logfmt, as_json):
        assert len(line.splitlines()) == 1
        assert line.isascii()
    found = json.loads(as_json)
    assert read_line(as_logfmt) == {name: str(value) for name, value in found.items()}
    return found


def test_a_line_is_its_pairs_after_time_level_logger_and_event():
    one = record("session_ended session=%s seconds=%.1f frames=%d detail=%s", "s-1", 2.34, 7, "")

    found = both(one)

    assert list(found) == [
        *("time", "level", "logger", "event", "session", "seconds", "frames", "detail")
    ]
    assert found["event"] == "session_ended"
    assert (found["seconds"], found["frames"], found["detail"]) == (2.3, 7, "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])


def test_the_time_is_utc():
    one = record("relay_started")
    one.created = 1_800_000_000.0

    assert both(one)["time"] == "2027-01-15T08:00:00.000Z"


def test_any_text_is_a_value():
    assert both(record("node_lost detail=%s", ODD))["detail"] == ODD
    assert both(record("node_lost detail=%s", "x=1 y=2"))["detail"] == "x=1 y=2"
    assert len(both(record("node_lost detail=%s", "x" * 9_000))["detail"]) == ours.MOST


def test_a_value_that_is_not_known_is_left_out():
    assert "detail" not in both(record("node_lost detail=%s count=%d", None, 1))


def test_what_a_request_and_a_session_know_is_in_their_lines_and_never_twice():
    token = current.set(LogContext(None, {"request": "r-1", "session": "s-1"}))
    try:
        found = both(record("browser_back session=%s", "s-2"))
    finally:
        current.reset(token)

    assert (found["request"], found["session"]) == ("r-1", "s-2")


def test_a_traceback_is_one_value_at_the_end():
    error = caught(ValueError(SECRET), caught(KeyError(SECRET)))

    found = both(record("task_failed task=%s", "node", error=error, level=logging.ERROR))

    assert list(found)[-1] == "trace"
    assert found["trace"] == format_error(error)
    assert SECRET not in json.dumps(found)


@pytest.mark.parametrize(
    ("text", "values", "said"),
    [
        (f"Exception in callback hear(b'{SECRET}')", (), "Exception in callback hear"),
        (f"It was never retrieved\nfuture: <Task {SECRET}>", (), "It was never retrieved"),
        ("could not parse %s", (SECRET,), "could not parse"),
        ('HTTP Request: %s %s "%s"', ("GET", SECRET, "x"), "HTTP Request"),
        ("event key=%s", (SECRET,), "event key"),
    ],
)  # fmt: skip
def test_of_a_library_the_first_words_are_told_and_no_value(text, values, said):
    found = both(record(text, *values, logger="asyncio"))

    assert (found["event"], found["message"]) == ("library", said)
    assert SECRET not in json.dumps(found)


def test_a_line_of_ours_that_is_not_in_pairs_is_told_like_a_librarys():
    assert both(record("something went wrong: %s", SECRET))["message"] == "something went wrong"
    assert both(record("node_lost count=%d", 1, 2))["event"] == "library"


def test_the_strict_reader_takes_nothing_else():
    for line in ("", "a", "a=", "a=b  c=d", "a=b c", 'a="b"c', 'a="\\x"', "a=b a=c", "A=b", "a=b "):
        with pytest.raises(ValueError, match="expected"):
            read_line(line)
    with pytest.raises(ValueError, match="expected"):
        read_lines("a=b")


# --- every call in the sources -------------------------------------------------------------------

LEVELS = {"debug": 0, "info": 0, "warning": 0, "error": 0, "exception": 0, "critical": 0, "log": 1}
TEMPLATE = re.compile(r"[a-z]+(_[a-z]+)*( [a-z][a-z0-9_]*=%[-.\d]*[sdfg])*")
# `session=` and the like name one thing each: `call` is the row of a call, `key` its
# Idempotency-Key, `call_id` what the agent calls it.


def calls():
    for room in ("relay", "control", "config"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                match node:
                    case ast.Call(func=ast.Attribute(value=owner, attr=level)) if level in LEVELS:
                        name = ast.unparse(owner)
                        if name.rpartition(".")[2] in ("log", "_log"):
                            yield path, node.args[LEVELS[level] :]


def test_every_line_of_ours_is_an_event_and_pairs():
    found = list(calls())

    assert len(found) > 60
    for path, (text, *values) in found:
        template = "".join(
            str(part.value) if isinstance(part, ast.Constant) else "event"
            for part in (text.values if isinstance(text, ast.JoinedStr) else [text])
        )
        assert TEMPLATE.fullmatch(template), (path, template)
        starred = any(isinstance(value, ast.Starred) for value in values)
        assert starred or template.count("%") == len(values), (path, template)


# --- who writes ----------------------------------------------------------------------------------


@pytest.fixture
def put_back():
    """Logging and what it hooks into are as before afterwards."""
    root = logging.getLogger()
    hooks = (sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")
    hooks = (*hooks, (warnings, "showwarning"))
    kept = [(where, name, getattr(where, name)) for where, name in hooks]
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in (*ours.OURS, "asyncpg")}
    yield
    for where, name, hook in kept:
        setattr(where, name, hook)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_what_python_would_print_by_itself_is_a_line_too(put_back, capsys):
    ours.set_up("debug")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = ours._warned  # which the block has put back
        warnings.warn(f"{SECRET} is old", stacklevel=1)
    try:
        raise ValueError(SECRET)
    except ValueError:
        sys.excepthook(*sys.exc_info())

    class Breaks:
        def __del__(self):
            raise KeyError(SECRET)

    Breaks()

    first, *crashes = read_lines(capsys.readouterr().err)
    assert (first["event"], first["kind"]) == ("python_warned", "UserWarning")
    assert [line["where"] for line in crashes] == ["the program", "a destructor"]
    assert SECRET not in str([first, *crashes])


async def test_what_the_event_loop_says_of_a_defect_is_a_line_without_what_it_quotes(
    put_back, capsys
):
    ours.set_up("debug")
    asyncio.get_running_loop().call_soon(lambda said: 1 / 0, SECRET)
    await asyncio.sleep(0)

    (line,) = read_lines(capsys.readouterr().err)
    assert line["logger"] == "asyncio"
    assert "ZeroDivisionError" in line["trace"]
    assert SECRET not in str(line)


def test_commands_take_level_and_format_from_the_environment(put_back, capsys):
    ours.set_up_from({"RELAY_LOG_LEVEL": "Debug", "RELAY_LOG_FORMAT": "JSON"})
    logging.getLogger("control").debug("relay_started")
    ours.set_up_from({"RELAY_LOG_LEVEL": "nonsense"})
    logging.getLogger("control").debug("relay_started")
    logging.getLogger("control").info("relay_started")

    first, second = capsys.readouterr().err.splitlines()
    assert json.loads(first)["event"] == read_line(second)["event"] == "relay_started"


# --- exceptions ----------------------------------------------------------------------------------


def test_the_text_of_an_exception_is_left_out_and_its_place_and_kind_are_not():
    text = format_error(caught(ValueError(SECRET), caught(KeyError(SECRET))))

    assert SECRET not in text
    assert text.index("KeyError") < text.index("then:") < text.index("ValueError")
    assert text.count("test_logging.py") == 2


def test_those_in_a_group_are_told_each():
    text = format_error(ExceptionGroup("x", [caught(ValueError(SECRET)), caught(KeyError())]))

    assert SECRET not in text
    assert "ValueError" in text
    assert "KeyError" in text


def test_of_a_databases_error_the_state_is_told_and_no_value():
    wrong = asyncpg.InvalidTextRepresentationError(f'invalid input syntax: "{SECRET}"')

    assert describe_error(wrong) == "InvalidTextRepresentationError 22P02"
