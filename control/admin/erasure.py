"""Erases everything of a person, and proves it: rows of all tables, and files of this node.

Control plane. Live sessions end first. Then the rows go, and with them whatever journals still
have: records of conversations that are gone are dropped, on every node. `condemned.jsonl` and
broken files are cleared here at once, and by every other node with its next heartbeat or, if it
does not run, when it is started.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from uuid import UUID

import msgspec

from control.db import audit, fleet, people, usage
from control.db.people import Person
from control.db.store import Store
from control.sessions.recordings import erase_gone
from relay.journal import erasure as files
from relay.journal.erasure import Removed
from relay.journal.journal import Journal
from relay.live.session_registry import SessionRegistry
from relay.recorder.recorder import Recorder

log = logging.getLogger(__name__)

END_SECONDS = 5.0  # for live sessions; what has not ended by then ends when its rows are gone
LOOK_SECONDS = 0.1
CLEAR_SECONDS = 15.0


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Of this node. `journal`: whether all that waited is in Postgres, or dropped, and off the
    disk. `removed`: of `condemned.jsonl` and broken files, whosever conversations were gone.
    `naming`: files that still have an id of theirs; there should be none."""

    journal: bool
    removed: Removed
    naming: list[str]


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """`receipt` is the id of the line in the audit log, which names nobody. `rows` were there, by
    table, and `left` are there now. `ended` sessions were live. `other_nodes` that live look at
    their files within seconds: `cleared_at` of `GET nodes` says when they have."""

    receipt: UUID
    rows: dict[str, int]
    left: dict[str, int]
    ended: int
    files: Files
    other_nodes: list[UUID]


class Leftovers:
    """The files beside a journal, and recordings: the database says what of them may stay."""

    def __init__(
        self, store: Store, journal: Journal, directory: Path, recorder: Recorder | None = None
    ) -> None:
        self._store = store
        self._journal = journal
        self._directory = directory
        self._recorder = recorder

    async def clear(self) -> Removed:
        """Take out what is of conversations that are gone. Raises `DiskFailed`, `StoreUnavailable`.

        The journal's own files follow by themselves, as soon as what is in them is in Postgres.
        """
        self._journal.renew()
        named = await asyncio.to_thread(files.find_named, self._directory)
        if not named.subject:
            gone: set[UUID] = set()
        else:
            async with self._store.reading() as connection:
                gone = await people.find_gone(connection, named.conversations, named.sessions)
        removed = await asyncio.to_thread(files.remove, self._directory, gone)
        if self._recorder is not None:
            await erase_gone(self._recorder, self._store)
        if removed.condemned or removed.broken:
            log.warning(
                "leftovers_cleared condemned=%d broken=%d", removed.condemned, removed.broken
            )
        return removed

    async def prove(self, person: Person) -> Files:
        """Clear all, and look for what is left of them. Raises as `clear`."""
        is_clear = await self._journal.cleared(CLEAR_SECONDS)
        removed = await self.clear()
        ids = [*person.conversations, *person.sessions]
        naming = await asyncio.to_thread(files.search, self._directory, ids)
        if self._recorder is not None:
            kept = await asyncio.to_thread(self._recorder.list_conversations)
            naming += sorted(str(one) for one in kept & set(person.conversations))
        return Files(journal=is_clear, removed=removed, naming=naming)


class Erasure:
    def __init__(
        self, store: Store, leftovers: Leftovers, live: SessionRegistry, node_id: UUID
    ) -> None:
        self._store = store
        self._leftovers = leftovers
        self._live = live
        self._node_id = node_id

    async def erase(self, user_id: str, who: str) -> Erased:
        """What there is of them by now. May be repeated. Raises `StoreUnavailable`, `DiskFailed`:
        then some of it may be there still."""
        store = self._store
        async with store.transaction() as connection:
            person = await people.find_person(connection, user_id)
            rows = await people.count_rows(connection, person)
            receipt = await audit.note(connection, who, audit.ERASED)
            live = await people.find_live(connection, person)
            await people.ask_to_end(connection, person)
        await self._end(person, live)
        ids = list(person.conversations)
        for at in range(0, len(ids), people.BATCH):
            async with store.transaction() as connection:
                await people.erase_some(connection, person, ids[at : at + people.BATCH])
        done = await self._leftovers.prove(person)
        async with store.transaction() as connection:
            await usage.forget(connection, person)
            left = await people.count_rows(connection, person)
            known = [person.user_id, *map(str, (*person.conversations, *person.sessions))]
            await audit.forget(connection, known)
            figures = {"rows": rows, "left": left, "ended": len(live), "files": done}
            await audit.finish(connection, receipt, figures)
        others = [n.id for n in await fleet.list_nodes(store) if n.id != self._node_id and n.alive]
        async with store.transaction() as connection:
            await people.tell_nodes(connection, others)
        return Erased(
            receipt=receipt, rows=rows, left=left, ended=len(live), files=done, other_nodes=others
        )

    async def _end(self, person: Person, live: list[UUID]) -> None:
        """Their sessions are over, or we have waited long enough."""
        for session_id in person.sessions:
            self._live.hang_up(session_id)
        try:
            async with asyncio.timeout(END_SECONDS):
                while live:
                    await asyncio.sleep(LOOK_SECONDS)  # other nodes end theirs
                    async with self._store.reading() as connection:
                        live = await people.find_live(connection, person)
        except TimeoutError:
            log.warning("erase_hurried sessions=%d", len(live))
