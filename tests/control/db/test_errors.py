"""errors.py: which errors lie in the values, and what is said about them."""

from __future__ import annotations

import asyncio
import traceback

import asyncpg
import pytest

from control.db.conversations import rename_conversation
from control.db.errors import FROM_DATABASE, ValuesRefused, describe, is_of_values
from control.db.store import StoreUnavailable
from relay.journal.journal import Journal
from relay.telemetry.metrics import Metrics
from tests.control.api.test_rest import LiveHere, connect, make_app
from tests.control.db.test_conversations import USER, ask, converse, said

SECRET = "what a person said"
# Of each class one that other programs were seen to take for a defect of the row.
AWAY = [
    "08006", "0A000", "21000", "25006", "25P02", "25P03", "28000", "3D000", "40001", "40P01",
    "42501", "42703", "42P01", "53100", "53200", "53300", "55P03", "57014", "57P01", "57P05",
    "58030", "F0000", "P0001", "XX000", "XX002", "ZZ999",
]  # fmt: skip
OF_VALUES = ["22001", "22021", "22P05", "23502", "23503", "23505", "23514", "23P01", "54000"]


def raised(sqlstate, severity="ERROR"):
    fields = {
        "S": severity,
        "V": severity,
        "C": sqlstate,
        "M": f"no: {SECRET}",
        "D": f"Failing row contains ({SECRET}).",
        "t": "messages",
        "n": "messages_check",
    }
    return asyncpg.PostgresError.new(fields)


@pytest.mark.parametrize("sqlstate", AWAY)
def test_every_class_but_those_of_values_means_away(sqlstate):
    assert not is_of_values(raised(sqlstate))


@pytest.mark.parametrize("sqlstate", OF_VALUES)
def test_a_defect_of_the_values_will_come_again(sqlstate):
    assert is_of_values(raised(sqlstate))


def test_an_error_of_the_whole_connection_is_never_one_of_the_values():
    assert not is_of_values(raised("22023", "FATAL"))


@pytest.mark.parametrize(
    "error", [OverflowError(), RecursionError(), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "")]
)
def test_what_cannot_be_encoded_is_a_defect_of_the_values(error):
    assert is_of_values(error)
    assert isinstance(error, FROM_DATABASE)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        asyncpg.InterfaceError("another operation is in progress"),
        asyncpg.InternalClientError("unexpected"),
        asyncpg.ProtocolError("unexpected"),
        asyncpg.ConnectionDoesNotExistError("closed"),
        RuntimeError("the handler is closed"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, ""),
    ],
)
def test_trouble_of_driver_and_network_means_away(error):
    assert not is_of_values(error)
    assert isinstance(error, FROM_DATABASE)


@pytest.mark.parametrize("sqlstate", AWAY + OF_VALUES)
def test_what_is_said_of_an_error_quotes_nothing(sqlstate):
    line = describe(raised(sqlstate))

    assert SECRET not in line
    assert sqlstate in line
    assert "table=messages constraint=messages_check" in line


def test_an_error_of_the_connection_says_why():
    line = describe(raised("XX000", "FATAL"))

    assert line.endswith(f"XX000 table=messages constraint=messages_check: no: {SECRET}")


def test_an_argument_and_the_url_are_not_quoted():
    assert describe(asyncpg.DataError(f"invalid input: {SECRET}")) == "DataError 22000"
    wrong = asyncpg.exceptions.ClientConfigurationError(f"invalid port: {SECRET}")
    assert describe(wrong) == "ClientConfigurationError"
    assert describe(RuntimeError(SECRET)) == "RuntimeError"
    assert describe(TimeoutError()) == "TimeoutError"


async def test_a_write_has_one_of_two_errors_also_when_it_is_the_commit_that_fails(
    store, database_url
):
    conversation_id = await converse(store)
    await execute(
        database_url,
        f"""
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'no' USING ERRCODE = NEW.content, DETAIL = '{SECRET}';
        END $$;
        CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON voice.messages
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail();
        """,
    )

    for sqlstate in AWAY + OF_VALUES:
        with pytest.raises(ValuesRefused if sqlstate in OF_VALUES else StoreUnavailable) as raised:
            await store.write([said(conversation_id, 1, sqlstate)])

        assert sqlstate in str(raised.value)
        assert SECRET not in "".join(traceback.format_exception(raised.value))
        await ask(store)


async def test_what_the_journal_cannot_write_for_long_is_said_by_ready(
    store, database_url, tmp_path, monkeypatch
):
    monkeypatch.setattr("control.api.health.STUCK_SECONDS", 0.0)
    conversation_id = await converse(store)
    await execute(database_url, "ALTER TABLE voice.messages RENAME TO messages_away")
    journal = Journal(store.write, Metrics(), tmp_path)
    app = make_app(store, LiveHere(), journal=journal)

    async with asyncio.timeout(30), journal.running(grace=5.0), connect(app) as client:
        assert (await client.get("/health/ready")).status_code == 200
        journal.append(said(conversation_id, 1, SECRET))
        while not journal.failing:
            assert not await journal.settled(0.05)
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["reasons"] == ["the database does not take what the journal has"]

        await execute(database_url, "ALTER TABLE voice.messages_away RENAME TO messages")
        assert await journal.settled(20.0)
        assert (await client.get("/health/ready")).status_code == 200


async def test_values_that_a_request_may_not_have_are_not_quoted(store, database_url):
    conversation_id = await converse(store)
    await execute(
        database_url,
        f"ALTER TABLE voice.conversations ADD CONSTRAINT wise CHECK (title <> '{SECRET}')",
    )

    with pytest.raises(ValuesRefused, match="23514 table=conversations constraint=wise") as raised:
        await rename_conversation(store, conversation_id, user_id=USER, title=SECRET)
    async with connect(make_app(store, LiveHere(), user=USER)) as client:
        url = f"/api/v1/voice/conversations/{conversation_id}"
        answer = await client.patch(url, json={"title": SECRET})

    # What the log has of it, too: the traceback goes there.
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert SECRET not in answer.text


async def execute(url, sql):
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
