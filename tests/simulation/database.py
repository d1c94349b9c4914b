"""Postgres: the tables, and the statements of control/db as functions of them, each a transaction.

They say in Python what the SQL says, line by line where it matters: batch_writer.py, ownership.py,
calls.py. Who asks may not hear the answer: the database is away, or the answer is lost and the
transaction is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from control.db.ownership import DEAD_SECONDS, GAP
from relay.core.records import (
    CallDecided,
    IntentCalled,
    MessageSaid,
    Record,
    SessionBegan,
    SessionEnded,
    TicketIssued,
)
from relay.protocol.relay_events import IntentStatus as Status
from tests.simulation.clock import Ask, Process
from tests.simulation.promises import Broken


class Unavailable(Exception):
    """The database did not answer."""


class SessionRow(msgspec.Struct):
    id: UUID
    conversation_id: UUID
    ticket: str
    number: int  # the order in which they were made
    ticket_used: bool = False
    node: UUID | None = None
    epoch: int = 0
    settled_epoch: int = 0
    resume: str | None = None
    state: str = "new"
    end_reason: str | None = None
    end_asked: str | None = None
    released_at: float | None = None


class CallRow(msgspec.Struct):
    """The newest record of it, and what the outbox adds."""

    record: IntentCalled
    status: Status
    attempts: int
    due_at: float | None
    in_doubt: bool
    response: str | None
    accepted_at: float
    claims: int = 0
    taken_back: bool = False
    result: Any = None


class Taken(msgspec.Struct):
    taken: bool
    over: bool
    taken_over: bool = False
    owner_lives: bool = False
    resumed: bool = False
    epoch: int = 0
    at: float = 0.0


class Database:
    """`notify` is told the owner of a session that is to look at its row."""

    def __init__(self, world) -> None:
        self.world = world
        self.clock = world.clock
        self.chance = world.chance("database")
        self.is_away = False
        self.lost_answers = 0  # how many of the next ones
        self.sessions: dict[UUID, SessionRow] = {}
        self.of_conversation: dict[UUID, list[SessionRow]] = defaultdict(list)
        self.numbered_from: dict[UUID, int] = {}
        self.messages: dict[UUID, dict[int, MessageSaid]] = defaultdict(dict)
        self.ids: set[UUID] = set()  # of messages
        self.calls: dict[UUID, CallRow] = {}
        self.nodes: dict[UUID, float] = {}
        self.takeovers: dict[tuple[UUID, int], tuple[int, float]] = {}

    def ask(self, process: Process, work: Callable[..., Any], *about: Any) -> Ask:
        def ask(resume) -> None:
            way = self.world.between(0.0005, 0.02, self.chance)
            self.clock.later(way, self._arrive, work, about, resume)

        return ask

    def _arrive(self, work, about, resume) -> None:
        way = self.world.between(0.0005, 0.02, self.chance)
        if self.is_away:
            self.clock.later(way * 10, resume, Unavailable())
            return
        answer = work(*about)
        if self.lost_answers:
            self.lost_answers -= 1
            self.clock.say("database", f"{work.__name__} is done, its answer is lost")
            answer = Unavailable()
        self.clock.later(way, resume, answer)

    # --- what the journal writes (batch_writer.py) -------------------------------------------

    def flush(self, records: list[Record]) -> None:
        self.world.moment("store")
        for record in records:
            if isinstance(record, MessageSaid):
                self._insert(record)
        for record in records:
            if isinstance(record, IntentCalled):
                self._upsert(record)
            elif isinstance(record, CallDecided) and record.wanted == "submit":
                self._confirm(record)
            elif isinstance(record, CallDecided):
                self._cancel(record)
        for record in records:
            if isinstance(record, SessionBegan | TicketIssued | SessionEnded):
                self._note(record)

    def _insert(self, said: MessageSaid) -> None:
        received, at = self.takeovers.get((said.session_id, said.epoch), (0, 0.0))
        if received > 0 and said.frame > received and self.world.instant(said.at) > at:
            self.clock.say("database", f"message {said.seq} is void")
            return
        there = self.messages[said.conversation_id].setdefault(said.seq, said)
        if there.id != said.id:
            raise Broken("one numbering", f"{there.content!r} and {said.content!r}: {said.seq}")

    def _upsert(self, record: IntentCalled) -> None:
        due_at = None if record.due_in is None else self.clock.now + record.due_in
        known = self.calls.get(record.id)
        if known is None:
            self.calls[record.id] = CallRow(
                record=record,
                status=record.status,
                attempts=record.attempts,
                due_at=due_at,
                in_doubt=record.in_doubt,
                response=record.response,
                accepted_at=self.clock.now,
                claims=record.claim,
                result=record.result,
            )
            return
        status, stands = record.status, known.status
        undone = known.taken_back and stands in (Status.CANCELLING, Status.CANCELLED)
        counts = (
            (status is Status.SUBMITTED and stands is not Status.SUBMITTED and not undone)
            or (
                status is Status.REJECTED
                and stands not in (Status.SUBMITTED, Status.REJECTED, Status.CANCELLING)
                and not (known.taken_back and stands is Status.CANCELLED)
            )
            or (stands is Status.CANCELLING and status is Status.CANCELLED)
            or (
                stands in (Status.SUBMITTING, Status.CANCELLING)
                and record.claim == known.claims
                and record.attempts >= known.attempts
            )
        )
        if counts:
            known.status = status
            known.attempts = max(known.attempts, record.attempts)
            known.response = record.response or known.response
            known.due_at, known.in_doubt = due_at, record.in_doubt

    def _confirm(self, decided: CallDecided) -> None:
        known = self.calls.get(decided.id)
        if known is not None and known.status is Status.AWAITING:
            known.status, known.response = Status.SUBMITTING, None
            known.due_at = known.accepted_at = self.clock.now
            known.in_doubt = False
            known.claims += 1

    def _cancel(self, decided: CallDecided) -> None:
        known = self.calls.get(decided.id)
        open_ones = (Status.AWAITING, Status.SUBMITTING, Status.SUBMITTED, Status.FAILED)
        if known is None or known.taken_back or known.status not in open_ones:
            return
        is_unsent = known.status is Status.SUBMITTING and not known.in_doubt
        if known.status is Status.AWAITING or is_unsent:
            known.status = Status.CANCELLED
        elif decided.can_cancel and known.status is not Status.FAILED:
            known.status = Status.CANCELLING
        known.taken_back = True
        known.claims += 1
        if known.status in (Status.CANCELLING, Status.CANCELLED):
            known.response = decided.response
        if known.status is Status.CANCELLING:
            known.accepted_at = known.due_at = self.clock.now
        elif known.status is Status.CANCELLED:
            known.due_at = None

    def _note(self, record: SessionBegan | TicketIssued | SessionEnded) -> None:
        row = self.sessions[record.session_id]
        is_owner = row.epoch == record.epoch
        match record:
            case SessionBegan() if is_owner and row.state != "ended":
                row.state = "live"
            case TicketIssued() if is_owner:
                row.resume = record.hash.decode()
            case SessionEnded():
                if is_owner:
                    row.state, row.end_reason = "ended", record.reason
                    if row.released_at is None:
                        row.released_at = self.clock.now
                row.settled_epoch = max(row.settled_epoch, record.epoch)

    # --- who has which session (ownership.py) ------------------------------------------------

    def create(self, session_id: UUID, conversation_id: UUID, ticket: str) -> list[MessageSaid]:
        row = SessionRow(session_id, conversation_id, ticket, len(self.sessions))
        self.sessions[session_id] = row
        self.of_conversation[conversation_id].append(row)
        self.numbered_from.setdefault(conversation_id, 0)
        return self.history(conversation_id)

    def history(self, conversation_id: UUID) -> list[MessageSaid]:
        messages = self.messages[conversation_id]
        return [messages[seq] for seq in sorted(messages)]

    def calls_of(self, conversation_id: UUID) -> list[CallRow]:
        rows = [row for row in self.calls.values() if row.record.conversation_id == conversation_id]
        return [msgspec.structs.replace(row) for row in rows]

    def is_alive(self, node: UUID | None, extra: float = 0.0) -> bool:
        seen = self.nodes.get(node) if node else None
        return seen is not None and seen > self.clock.now - DEAD_SECONDS - extra

    def take(self, session_id: UUID, ticket: str, node: UUID, next_ticket: str) -> Taken | None:
        row = self.sessions.get(session_id)
        if row is None or ticket not in (row.ticket, row.resume):
            return None
        resumes = row.resume == ticket
        if resumes and row.node == node and row.state != "ended":
            return None
        now, grace = self.clock.now, self.world.limits.grace_seconds
        late = row.released_at is not None and row.released_at <= now - grace
        left = row.state == "ended" and (row.end_reason != "shutdown" or late)
        lost = row.end_asked is not None or left
        taken = not lost if resumes else row.state == "new" and not row.ticket_used
        over = lost if resumes else row.state == "ended"
        if not taken:
            return Taken(taken, over)
        others = [one for one in self.of_conversation[row.conversation_id] if one is not row]
        lives = self.is_alive(row.node)
        before = row.node
        row.epoch += 1
        row.node, row.resume, row.ticket_used = node, next_ticket, True
        row.state = "live" if row.state == "ended" else row.state
        row.end_reason = row.released_at = None
        if resumes:
            self.world.moment("takeover")
            self.world.notify(before)
        else:
            self._supersede(others)
        return Taken(taken, over, resumes, lives, bool(others), row.epoch, now)

    def _supersede(self, others: Iterable[SessionRow]) -> None:
        for one in others:
            is_open = one.state != "ended" or one.end_reason == "shutdown"
            if one.epoch > 0 and one.end_asked is None and is_open:
                one.end_asked = "superseded"
                self.world.notify(one.node)

    def is_elsewhere(self, session_id: UUID, node: UUID) -> bool:
        row = self.sessions.get(session_id)
        return row is not None and row.state != "ended" and row.epoch > 0 and row.node != node

    def may_settle(self, session_id: UUID, conversation_id: UUID, before_us: bool) -> bool:
        rows = self.of_conversation[conversation_id]
        mine = self.sessions[session_id]
        return any(
            one is not mine and one.settled_epoch < one.epoch and self.is_alive(one.node)
            for one in rows
        ) or (before_us and mine.settled_epoch < mine.epoch - 1)

    def hand_over(
        self, conversation_id: UUID, session_id: UUID, taken: Taken, received: int
    ) -> tuple[tuple[int, int, str | None], list[MessageSaid], list[CallRow]]:
        """`take_over` of control/sessions/takeover.py."""
        numbering = self._number(conversation_id, session_id)
        if taken.taken_over:
            for epoch in range(1, taken.epoch):
                self.takeovers.setdefault((session_id, epoch), (received, taken.at))
        return numbering, self.history(conversation_id), self.calls_of(conversation_id)

    def _number(self, conversation_id: UUID, session_id: UUID) -> tuple[int, int, str | None]:
        """Numbers of message and turn to go on from, and whose turn it is."""
        messages = self.messages[conversation_id]
        last = messages[max(messages)] if messages else None
        is_unsettled = False
        for row in self.of_conversation[conversation_id]:
            settled = row.epoch - (row.id == session_id)
            if row.settled_epoch < settled:
                row.settled_epoch = settled
                is_unsettled = True
        seq = max(last.seq if last else 0, self.numbered_from[conversation_id])
        turn, role = (last.turn, last.role) if last else (0, None)
        if is_unsettled:
            seq += GAP
            turn, role = seq, None
        self.numbered_from[conversation_id] = seq
        return seq, turn, role

    def beat(self, node: UUID) -> None:
        self.nodes[node] = self.clock.now

    def find_lost(self, node: UUID, owned: Mapping[UUID, int]) -> dict[UUID, str]:
        lost = {}
        for session_id, epoch in owned.items():
            row = self.sessions[session_id]
            if row.epoch != epoch:
                lost[session_id] = "moved"
            elif row.end_asked is not None:
                lost[session_id] = row.end_asked
            elif row.node == node and row.state == "ended" and row.end_reason == "node_lost":
                row.state, row.end_reason = "live", None
        return lost

    def end_missing(
        self, node: UUID, owned: Mapping[UUID, int], missed: Mapping[UUID, int]
    ) -> dict[UUID, int]:
        missing = {}
        for row in self.sessions.values():
            if row.node != node or row.state == "ended" or row.id in owned:
                continue
            if missed.get(row.id) == row.epoch:
                row.state, row.end_reason = "ended", row.end_asked or "node_lost"
            else:
                missing[row.id] = row.epoch
        return missing

    def sweep(self) -> None:
        grace = self.world.limits.grace_seconds
        for row in self.sessions.values():
            if row.state != "ended" and row.node and not self.is_alive(row.node, grace):
                row.state, row.end_reason = "ended", row.end_asked or "node_lost"

    def leave(self, node: UUID) -> None:
        if not any(row.node == node and row.state != "ended" for row in self.sessions.values()):
            self.nodes.pop(node, None)

    # --- the outbox (calls.py) ---------------------------------------------------------------

    @property
    def has_open_calls(self) -> bool:
        return any(row.due_at is not None for row in self.calls.values())

    def is_any_due(self) -> bool:
        return any(self._is_due(row) for row in self.calls.values())

    def _is_due(self, row: CallRow) -> bool:
        is_open = row.status in (Status.AWAITING, Status.SUBMITTING, Status.CANCELLING)
        return is_open and row.due_at is not None and row.due_at <= self.clock.now

    def end_waits(self, response: str) -> None:
        for row in self.calls.values():
            if row.status is Status.AWAITING and self._is_due(row):
                row.status, row.response = Status.CANCELLED, response
                row.due_at, row.in_doubt = None, False
                row.claims += 1

    def claim(self, lease: float) -> list[CallRow]:
        """Copies, with whether they were in doubt before."""
        claimed = []
        for row in self.calls.values():
            if self._is_due(row) and row.status is not Status.AWAITING:
                row.claims += 1
                row.due_at = self.clock.now + lease
                claimed.append(msgspec.structs.replace(row))
                row.in_doubt = True
        return claimed

    def named(self, ids: Iterable[UUID]) -> list[CallRow]:
        return [msgspec.structs.replace(self.calls[id]) for id in ids if id in self.calls]
