"""One relay: a process with its sessions, and a disk that outlives it.

Attach, heartbeat and drain as in relay/live, control/sessions and control/cluster.
"""

from __future__ import annotations

import math
from datetime import timedelta
from uuid import UUID

from config.agent import Audio
from config.policy import Policy
from control.db import rows as db_rows
from control.db.ownership import DEAD_SECONDS
from control.sessions.admission import TICKET_PAUSES, _make_takeover
from control.sessions.takeover import (
    HANDOVER_LOOK,
    HANDOVER_SECONDS,
    history_for_agent,
    open_calls,
)
from relay.core import events
from relay.core.admitted import Admitted, ResumePoint
from relay.core.events import EndReason
from relay.core.session import Session
from relay.protocol import deepgram
from tests.simulation.calls import Calls, Outbox
from tests.simulation.clock import Process, Work
from tests.simulation.database import CallRow, Taken, Unavailable
from tests.simulation.journal import Journal, Rows
from tests.simulation.runner import Runner
from tests.simulation.wire import End

BEAT_SECONDS = 5.0
POLICY = Policy()


class Refused(Exception):
    """Before the 101: status and code."""


class Relay:
    """`disk` has the records of each process that ran here."""

    def __init__(self, world, name: str) -> None:
        self.world = world
        self.clock = world.clock
        self.name = name
        self.chance = world.chance(name)
        self.disk: list[Rows] = []
        self.runs = 0
        self.start()

    # --- its process -------------------------------------------------------------------------

    def start(self) -> None:
        self.runs += 1
        self.process = process = Process(self.clock, f"{self.name}.{self.runs}")
        self.clock.say(self.name, "starts")
        self.node: UUID = self.world.new_id()
        self.is_draining = False
        self.runners: dict[UUID, Runner] = {}
        left = [rows for rows in self.disk if rows.records]
        self.disk = [*left, Rows()]
        jitter = self.chance.random
        journals = [Journal(process, self.world.database, rows, jitter) for rows in self.disk]
        self.journal, self.adopted = journals[-1], journals[:-1]
        self.calls = Calls(self.world, process, self.journal)
        Outbox(self.world, process, self.journal, self.calls)
        process.start(self._beat())

    def kill(self) -> None:
        if self.process.is_alive:
            self.clock.say(self.name, "is killed")
            self.process.die(keeps_words=self.chance.random() < 0.5)
            self.runners = {}

    def drain(self) -> None:
        """SIGTERM: nobody new, sessions end soon, what is left is written."""
        if self.is_draining or not self.process.is_alive:
            return
        self.clock.say(self.name, "drains")
        self.is_draining = True
        for runner in list(self.runners.values()):
            runner.handle(events.GoAway())
        self.process.start(self._stop())

    def _stop(self) -> Work:
        while self.runners:
            yield 0.1
        yield 0.2
        grace = self.clock.now + 5.0
        while self.records_left and self.clock.now < grace:
            yield 0.1
        try:
            yield self.world.database.ask(self.process, self.world.database.leave, self.node)
        except Unavailable:
            pass
        self.kill()

    @property
    def records_left(self) -> int:
        return sum(len(rows.records) for rows in self.disk)

    def ended(self, runner: Runner) -> None:
        if self.runners.get(runner.admitted.session_id) is runner:
            del self.runners[runner.admitted.session_id]

    # --- a browser comes ---------------------------------------------------------------------

    def accept(self, end: End) -> None:
        """A browser connects: what it says first is what it wants."""
        end.hear = lambda kind, payload: self._asked(end, kind, payload)

    def _asked(self, end: End, kind: str, payload) -> None:
        if kind == "post":
            self.process.start(self._post(end, payload))
        elif kind == "upgrade":
            self.process.start(self._upgrade(end, *payload))

    def _post(self, end: End, conversation_id: UUID | None) -> Work:
        if self.is_draining:
            end.send("refused", (503, "stopping"))
            return
        database, world = self.world.database, self.world
        session_id = world.name(world.new_id(), "session")
        ticket = world.new_ticket()
        new = conversation_id or world.new_id()
        try:
            known = yield database.ask(self.process, database.create, session_id, new, ticket)
        except Unavailable:
            end.send("refused", (503, "database_unavailable"))
            return
        end.send("begun", (session_id, new, ticket, known))

    def _upgrade(
        self, end: End, session_id: UUID, ticket: str, seen: ResumePoint, is_first: bool
    ) -> Work:
        if self.is_draining:
            end.send("refused", (503, "stopping"))
            return
        runner = self.runners.get(session_id)
        if runner is not None and runner.resume(ticket, seen.received, end):
            return
        try:
            admitted = yield from self._admit(session_id, ticket, seen)
        except Refused as refused:
            end.send("refused", refused.args)
            return
        except Unavailable:
            end.send("refused", (503, "database_unavailable"))
            return
        if self.is_draining:
            end.send("refused", (503, "stopping"))
            return
        runner = Runner(self, admitted, self._new_session(admitted), end)
        self.runners[session_id] = runner
        if end.is_open:
            runner.begin()
        else:  # it left during the handshake
            runner.hang_up(EndReason.BROWSER_LOST)

    def _new_session(self, admitted: Admitted) -> Session:
        world = self.world

        def make_settings(history, _) -> deepgram.Settings:
            return deepgram.Settings(audio={}, agent={"context": {"messages": list(history)}})

        return Session(
            admitted,
            make_settings,
            now=self.clock.now,
            began=world.began + timedelta(seconds=self.clock.now),
            limits=world.limits,
            policy=POLICY,
            new_id=world.new_id,
            jitter=self.chance.random,
            new_ticket=world.new_ticket,
            asks=world.plan.asks,
        )

    def _admit(self, session_id: UUID, ticket: str, seen: ResumePoint) -> Work:
        database = self.world.database
        next_ticket = self.world.new_ticket()
        taken = yield from self._take(session_id, ticket, next_ticket)
        if taken is not None and taken.over:
            raise Refused(409, "session_ended")
        if taken is None or not taken.taken:
            raise Refused(401, "ticket_refused")
        conversation_id = database.sessions[session_id].conversation_id
        numbering, history = (0, 0, None), db_rows.History()
        if taken.resumed or taken.taken_over:
            numbering, history = yield from self._take_over(
                session_id, conversation_id, taken, seen.received
            )
        return Admitted(
            session_id=session_id,
            conversation_id=conversation_id,
            user_id="user",
            timezone="Europe/Vienna",
            audio=Audio(),
            last_seq=numbering[0],
            last_turn=numbering[1],
            last_role=numbering[2],
            history=history_for_agent(history),
            open_calls=open_calls(history, conversation_id),
            epoch=taken.epoch,
            resume_ticket=next_ticket,
            takeover=_make_takeover(ticket, seen, history) if taken.taken_over else None,
        )

    def _take(self, session_id: UUID, ticket: str, next_ticket: str) -> Work:
        database, process = self.world.database, self.process
        for pause in TICKET_PAUSES:
            yield pause
            taken = yield database.ask(
                process,
                database.take,
                session_id,
                ticket,
                self.node,
                next_ticket,
            )
            if taken is not None:
                return taken
            if not (yield database.ask(process, database.is_elsewhere, session_id, self.node)):
                return None
        return None

    def _take_over(
        self, session_id: UUID, conversation_id: UUID, taken: Taken, received: int
    ) -> Work:
        database, process = self.world.database, self.process
        for runner in list(self.runners.values()):
            if runner.admitted.conversation_id == conversation_id:
                runner.hang_up(EndReason.SUPERSEDED)
        for journal in (*self.adopted, self.journal):
            yield journal.settled()
        before_us = taken.taken_over and taken.owner_lives
        late = self.clock.now + HANDOVER_SECONDS
        about = session_id, conversation_id, before_us
        while (yield database.ask(process, database.may_settle, *about)):
            if self.clock.now > late:
                break
            yield HANDOVER_LOOK
        about = conversation_id, session_id, taken, received
        numbering, messages, calls = yield database.ask(process, database.hand_over, *about)
        return numbering, db_rows.History(
            messages=[_message(one) for one in messages], calls=[_call(one) for one in calls]
        )

    # --- others --------------------------------------------------------------------------------

    @property
    def owned(self) -> dict[UUID, int]:
        return {id: one.admitted.epoch for id, one in self.runners.items() if one.is_live}

    def notice(self) -> None:
        """A NOTIFY of the database."""
        self.process.do(lambda: self.process.start(self._notice()))

    def _notice(self) -> Work:
        try:
            yield from self._look()
        except Unavailable:
            pass  # the next heartbeat does it

    def _look(self) -> Work:
        database = self.world.database
        if owned := self.owned:
            lost = yield database.ask(self.process, database.find_lost, self.node, owned)
            for session_id, why in lost.items():
                if runner := self.runners.get(session_id):
                    runner.hang_up(EndReason(why))

    def _beat(self) -> Work:
        database, process = self.world.database, self.process
        seen_since = math.inf
        missing: dict[UUID, int] = {}
        while True:
            before, now = seen_since, self.clock.now
            seen_since = math.inf
            try:
                yield database.ask(process, database.beat, self.node)
                seen_since = min(before, now)
                yield from self._look()
                missing = yield database.ask(
                    process, database.end_missing, self.node, self.owned, missing
                )
                if now - seen_since >= DEAD_SECONDS + self.world.limits.grace_seconds:
                    yield database.ask(process, database.sweep)
            except Unavailable:
                pass
            yield self.world.between(0.8 * BEAT_SECONDS, 1.2 * BEAT_SECONDS, self.chance)


def _message(said) -> db_rows.Message:
    return db_rows.Message(
        id=said.id,
        seq=said.seq,
        turn=said.turn,
        role=said.role,
        content=said.content,
        session_id=said.session_id,
        created_at=said.at,
    )


def _call(row: CallRow) -> db_rows.IntentCall:
    record = row.record
    return db_rows.IntentCall(
        id=record.id,
        call_id=record.call_id,
        session_id=record.session_id,
        after_seq=record.after_seq,
        intent=record.intent,
        function=record.function,
        arguments=record.arguments,
        status=row.status,
        attempts=row.attempts,
        result=row.result,
        response=row.response,
        next_attempt_at=None,
        last_error=None,
        created_at=record.at,
        updated_at=record.at,
        taken_back=row.taken_back,
    )
