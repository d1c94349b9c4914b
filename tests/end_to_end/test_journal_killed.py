"""A process that appends is killed at random moments; nothing that it took is missing in Postgres.

The children are real processes with the real journal and store on one directory. Each also adopts
what those before it left, so adoption is killed at random moments too. Every third one cannot reach
its database, and some run two at a time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from control.db.conversations import create_conversation
from control.db.store import Store, StoreUnavailable
from relay.core.records import MessageSaid
from relay.journal.journal import Journal, WriteFailed
from relay.telemetry.metrics import Metrics

ROUNDS = 30
SEED = random.randrange(1 << 32)  # printed; put a number here to see a failure again


def append_until_killed(database_url, directory, conversation_id, told, reachable):
    """The child: append as fast as it goes, and tell each `seq` after `append` has returned."""
    asyncio.run(_append(database_url, directory, UUID(conversation_id), told, reachable))


async def _append(database_url, directory, conversation_id, told, reachable):
    async with Journalling(database_url, directory, reachable) as journal, journal.running(grace=0):
        seq = 0
        while True:
            seq += 1
            taken = journal.append(
                MessageSaid(
                    id=uuid4(),
                    conversation_id=conversation_id,
                    session_id=uuid4(),
                    seq=seq,
                    turn=seq,
                    role="user",
                    content=f"line {seq} " + "of what was said " * (seq % 20),
                    at=datetime.now(UTC),
                )
            )
            assert taken
            os.write(told.fileno(), b"%d\n" % seq)
            await asyncio.sleep(0)


class Journalling:
    def __init__(self, database_url, directory, reachable=True):
        self.store = Store(database_url)
        self.journal = Journal(self.write, Metrics(), directory)
        self.reachable = reachable

    async def write(self, records):
        if not self.reachable:
            raise WriteFailed("not reachable")
        try:
            await self.store.write(records)
        except StoreUnavailable as error:
            raise WriteFailed(str(error)) from error

    async def __aenter__(self):
        await self.store.open()
        return self.journal

    async def __aexit__(self, *exc):
        await self.store.close()


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "control.db.store", "relay.journal.journal"])
    return context


class Child:
    def __init__(self, processes, database_url, directory, conversation_id, *, reachable):
        self.conversation_id = conversation_id
        self._ear, mouth = processes.Pipe(duplex=False)
        self._heard = b""
        self.process = processes.Process(
            target=append_until_killed,
            args=(database_url, directory, str(conversation_id), mouth, reachable),
            daemon=True,
        )
        self.process.start()
        mouth.close()

    def listen(self, until):
        """Hear it until a moment, but at least its first word; a full pipe would stop it."""
        while not self._heard or time.monotonic() < until:
            if self._ear.poll(0.001):
                self._heard += os.read(self._ear.fileno(), 1 << 16)

    def kill(self):
        """Kill it and hear the rest; the last `seq` that it told."""
        self.process.kill()
        while some := os.read(self._ear.fileno(), 1 << 16):
            self._heard += some
        self.process.join()
        self._ear.close()
        assert self.process.exitcode == -9
        told = [int(line) for line in self._heard.splitlines()]
        assert told == list(range(1, len(told) + 1))
        return len(told)


async def test_what_was_taken_is_in_postgres_once_and_in_order(
    store, database_url, tmp_path, processes, caplog
):
    chance = random.Random(SEED)
    directory = tmp_path / "journal"
    began = time.monotonic()
    last = {}
    for _ in range(ROUNDS):
        children = []
        for _ in range(chance.choice((1, 1, 2))):
            conversation_id = uuid4()
            await create_conversation(store, conversation_id, user_id="user")
            reachable = chance.random() < 0.66
            children.append(
                Child(processes, database_url, directory, conversation_id, reachable=reachable)
            )
        for child in children:
            child.listen(time.monotonic() + chance.uniform(0.0, 0.15))
            last[child.conversation_id] = child.kill()
    seconds = time.monotonic() - began

    left = sum(1 for path in directory.iterdir() if path.is_dir())
    async with Journalling(database_url, directory) as journal, journal.running(grace=5.0):
        assert await journal.settled(30.0)

    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(
        "SELECT conversation_id, array_agg(seq ORDER BY seq) AS seqs,"
        " array_agg(content ORDER BY created_at, seq) AS said"
        " FROM voice.messages GROUP BY conversation_id"
    )
    await connection.close()
    stored = {row["conversation_id"]: row for row in rows}
    lost = doubled = disordered = 0
    for conversation_id, told in last.items():
        seqs = stored[conversation_id]["seqs"]
        lost += len(set(range(1, told + 1)) - set(seqs))
        doubled += len(seqs) - len(set(seqs))
        said = stored[conversation_id]["said"]
        disordered += [text.split()[1] for text in said] != [str(n + 1) for n in range(len(said))]
    print(
        f"seed={SEED} rounds={ROUNDS} processes={len(last)} seconds={seconds:.1f}"
        f" told={sum(last.values())} folders_left={left}"
        f" lost={lost} doubled={doubled} disordered={disordered}"
    )
    assert (lost, doubled, disordered) == (0, 0, 0)
    assert list(directory.iterdir()) == []
    assert "journal_records_lost" not in caplog.text
    assert "message_conflict" not in caplog.text
