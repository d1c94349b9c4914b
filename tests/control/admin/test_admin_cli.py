"""`voice-relay admin` against a relay, over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from control.admin.cli import admin, write_table
from control.cli import main
from relay.journal.condemned import NAME, condemn
from tests.control.admin.program import KEY, talking
from tests.control.admin.test_calls import failed  # noqa: F401
from tests.control.admin.test_people import PERSON, SECRET, said, to_the_end

VOICE_RELAY = str(Path(sys.executable).with_name("voice-relay"))


@pytest.fixture
async def run(program):
    """`await run("nodes")`: exit code and output of `voice-relay admin nodes`."""

    def invoke(environ, arguments, answer):
        done = CliRunner().invoke(main, ["admin", *arguments], env=environ, input=answer)
        return done.exit_code, done.output

    async def run(*arguments, answer=None, **environ):
        environ = {"VOICE_RELAY_ADMIN_URL": program.admin_url, "RELAY_ADMIN_KEY": KEY} | environ
        return await asyncio.to_thread(invoke, environ, arguments, answer)

    return run


async def well(run, *arguments, **more):
    code, output = await run(*arguments, **more)
    assert code == 0, output
    return output


@pytest.mark.parametrize("command", sorted(admin.commands))
def test_every_command_explains_itself(command):
    done = CliRunner().invoke(main, ["admin", command, "--help"])

    assert done.exit_code == 0
    assert len(done.output.splitlines()) > 6


def test_the_help_lists_every_command_with_a_whole_sentence():
    listed = CliRunner().invoke(main, ["admin", "-h"]).output.split("Commands:")[1].strip()

    assert all(line.rstrip().endswith(".") for line in listed.splitlines())
    assert "..." not in listed


async def test_sessions_and_nodes_are_tables_for_people_and_json_for_scripts(program, run):
    async with talking(program, "ada") as talk:
        table = await well(run, "sessions")
        lines = (await well(run, "--json", "sessions")).splitlines()
        one = await well(run, "session", str(talk.session))
        nodes = await well(run, "nodes")
        await well(run, "hang-up", str(talk.session))
        async with asyncio.timeout(10):
            await to_the_end(talk)

    head, row = table.splitlines()
    assert head.split() == ["id", "user_id", "node_id", "state", "created_at", "browser_frames"]
    assert row.startswith(str(talk.session))
    assert [json.loads(line)["id"] for line in lines] == [str(talk.session)]
    assert "latency.up " in one
    assert str(program.node_id) in nodes


async def test_a_node_is_drained_and_undrained(program, run):
    node = str(program.node_id)

    assert "asked to drain" in await well(run, "drain", node)
    assert json.loads(await well(run, "--json", "nodes"))["drained"]
    assert "asked to undrain" in await well(run, "undrain", node)
    assert not json.loads(await well(run, "--json", "nodes"))["drained"]
    audit = await well(run, "audit")
    assert [line.split()[2] for line in audit.splitlines()[1:]] == ["node.undrain", "node.drain"]


async def test_the_state_is_shown(run):
    output = await well(run, "state")

    assert "journal.waiting" in output
    assert json.loads(await well(run, "--json", "state"))["failing"] == []


async def test_failed_intents_are_listed_and_mended_with_yes(program, run, failed):  # noqa: F811
    table = await well(run, "intents", "--reason", "away")
    counted = await run("retry", "--reason", "away")
    done = await well(run, "retry", "--reason", "away", "--yes")
    one = await well(run, "discard", failed[4], "--yes")
    left = await well(run, "--json", "intents")
    newer = await well(run, "intents", "--since", "24h", "--status", "submitting")

    assert len(table.splitlines()) == 3
    assert counted == (2, "Retry 2 failed intents? Nothing was done: say --yes\n")
    assert done == "retry: 2 intents\n"
    assert one == "discard: 1 intent\n"
    assert [json.loads(line)["id"] for line in left.splitlines()] == failed[3:1:-1]
    assert len(newer.splitlines()) == 3
    assert await well(run, "intents", "--since", "2026-06-01T00:00:00Z") == "none\n"


async def test_a_person_is_exported_and_erased(program, run, tmp_path):
    async with talking(program, PERSON) as talk:
        await talk.type(SECRET)
        file = tmp_path / "person.json"
        await well(run, "export", PERSON, "-o", str(file))
        again = await run("export", PERSON, "-o", str(file))
        listed = await well(run, "conversations", PERSON)
        refused = await run("erase", PERSON)
        there = await program.ask("GET", "/user", params={"id": PERSON})
        erased = json.loads(await well(run, "--json", "erase", PERSON, "--yes"))

    assert SECRET in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert again[0] == 1
    assert "File exists" in again[1]
    assert SECRET in listed
    assert refused[0] == 2
    assert "1 live session of auth0|person/1 for ever?" in refused[1]
    assert there["rows"]["conversations"] == 1
    assert set(erased["left"].values()) == {0}
    assert PERSON not in await well(run, "audit")


async def test_condemned_records_are_put_back(program, run):
    async with talking(program, "ada") as talk:
        condemn(program.journal / NAME, said(talk, "x"), "reason")
        assert (await run("restore"))[0] == 2
        assert await well(run, "restore", "--yes") == "1 record back in the journal\n"
        assert await well(run, "restore") == "0 records back in the journal\n"


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "said"),
    [
        (["state"], {"RELAY_ADMIN_KEY": "another-key-that-is-long"}, 1, "unauthorized"),
        (["state"], {"RELAY_ADMIN_KEY": ""}, 1, "no key"),
        (["state"], {"VOICE_RELAY_ADMIN_URL": "http://127.0.0.1:1"}, 1, "does not answer"),
        (["session", "01a20382-27f0-70ab-b457-344c1527a455"], {}, 1, "no such session"),
        (["session", "../audit"], {}, 2, "expected an id"),
        (["intents", "--since", "yesterday"], {}, 1, "since"),
        (["intents", "--status", "odd"], {}, 1, "status"),
        (["export", "x", "-o", "/nowhere/x.json"], {}, 1, "No such file"),
    ],
)
async def test_what_goes_wrong_is_one_line_and_an_exit_code(run, arguments, environ, code, said):
    found, output = await run(*arguments, **environ)

    assert found == code, output
    assert said in output
    assert "Traceback" not in output
    assert KEY not in output


async def test_a_relay_without_administrators_says_so(program, run):
    async with program.user("ada") as client:
        url = str(client.base_url)
    code, output = await run("state", VOICE_RELAY_ADMIN_URL=url)

    assert code == 1
    assert "set RELAY_ADMIN_KEY" in output


async def test_an_export_that_breaks_off_leaves_no_file(run, tmp_path):
    file = tmp_path / "x.json"

    code, _ = await run("export", "x", "-o", str(file), RELAY_ADMIN_KEY="another-key-that-is-long")

    assert code == 1
    assert not file.exists()


async def test_it_is_a_program(program):
    environ = {"VOICE_RELAY_ADMIN_URL": program.admin_url, "RELAY_ADMIN_KEY": KEY}
    done = await asyncio.to_thread(
        subprocess.run,
        [VOICE_RELAY, "admin", "nodes"],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("id ")


def test_a_table_has_equal_columns_and_cuts_what_is_long():
    item = {
        "a": "x" * 70,
        "b": "no\x1b[2J\ntrick",
        "c": "2026-01-02T03:04:05.678901Z",
        "d": {"rows": 1},
    }

    head, row = write_table("abcd", [item])

    assert row == f'{"x" * 59}…  no [2J trick  2026-01-02T03:04:05Z  {{"rows": 1}}'
    assert head.split() == list("abcd")
