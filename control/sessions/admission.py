"""Who may attach to a session: with its first ticket, with a grant, or from another relay.

Control plane. From then on this node is the owner of the session. What is said before in the
conversation is in Postgres first, as far as that is possible.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

from msgspec.structs import asdict, replace
from uuid_utils.compat import uuid7

from config.agent import Audio
from config.settings import Settings
from control.db import grants, ownership, sessions
from control.db.rows import AttachResult, History, NewSession, Numbering
from control.db.store import Store, StoreUnavailable
from control.errors import database_unavailable
from control.sessions.meter import Meter
from control.sessions.takeover import Settle, history_for_agent, open_calls, take_over
from relay.core.admitted import Admitted, ResumePoint, Takeover
from relay.live.tickets import hash_ticket, new_ticket
from relay.protocol.refusal import Refused
from relay.protocol.relay_events import StoredMessage

log = logging.getLogger(__name__)

# A ticket that was issued just now may still be on its way from its relay to the database.
TICKET_PAUSES = (0.0, 0.1, 0.3)

NOTHING_SEEN = ResumePoint()


class Admission:
    """Lets browsers and Deepgram's own clients attach, to sessions of this node from then on.

    Whatever is wrong with a ticket (unknown session, another's, used, expired), the answer is the
    same 401, so that nothing can be learnt by trying. Who has the right ticket of a session that is
    over is told so (409).
    """

    def __init__(
        self,
        store: Store,
        settle: Settle,
        settings: Settings,
        audio: Callable[[], Audio],
        expect: Callable[[UUID, NewSession], None],
        meter: Meter,
        *,
        node_id: UUID,
    ) -> None:
        """`audio` gives that of Deepgram's clients, until they say which; `expect` hears of each
        session of theirs: somebody will attach to it in a moment."""
        self._store = store
        self._settle = settle
        self._settings = settings
        self._audio = audio
        self._expect = expect
        self._meter = meter
        self._node_id = node_id

    async def admit_grant(self, ticket: str) -> Admitted:
        """`relay.core.admitted.AdmitGrant`. A grant is a `POST /session` that was put off: it gives
        a new session, which is attached to with the same ticket."""
        session_id = uuid7()
        with _refusing(session_id):
            grant = await grants.take(self._store, hash_ticket(ticket))
            if grant is None:
                raise Refused(401, "ticket_refused", "the ticket is not valid")
            session = NewSession(
                id=session_id,
                conversation_id=grant.conversation_id or uuid7(),
                user_id=grant.user_id,
                ticket_hash=hash_ticket(ticket),
                ticket_seconds=self._settings.ticket_seconds,
                timezone=grant.timezone,
                audio=self._audio(),
            )
            resume = grant.conversation_id is not None
            check = partial(self._meter.check, user_id=session.user_id)
            if await sessions.create_session(self._store, session, check, resume=resume) is None:
                raise Refused(401, "ticket_refused", "the conversation was erased")
        self._expect(session_id, session)
        return await self.admit(session_id, ticket)

    async def admit(
        self, session_id: UUID, ticket: str, seen: ResumePoint = NOTHING_SEEN
    ) -> Admitted:
        """`relay.core.admitted.Admit`: with the first ticket, or from another relay."""
        with _refusing(session_id):
            return await self._admit(session_id, ticket, seen)

    async def _admit(self, session_id: UUID, ticket: str, seen: ResumePoint) -> Admitted:
        next_ticket = new_ticket() if self._settings.grace_seconds else None
        taken, seconds = await self._take(session_id, ticket, next_ticket)
        if taken is not None and taken.over:
            raise Refused(409, "session_ended", "the session is over; begin another")
        if taken is None or not taken.taken:
            raise Refused(401, "ticket_refused", "the ticket is not valid for this session")
        history = History()
        numbering = Numbering()
        if taken.resumed or taken.taken_over:
            numbering, history = await take_over(
                self._store,
                self._settle,
                session_id,
                taken.conversation_id,
                taken if taken.taken_over else None,
                seen.received,
            )
        if taken.taken_over:
            log.info("session_taken_over session=%s epoch=%d", session_id, taken.epoch)
        return replace(
            taken,
            **asdict(numbering),
            history=history_for_agent(history),
            open_calls=open_calls(history, taken.conversation_id),
            resume_ticket=next_ticket,
            seconds=seconds,
            takeover=_make_takeover(ticket, seen, history) if taken.taken_over else None,
        )

    async def _take(
        self, session_id: UUID, ticket: str, next_ticket: str | None
    ) -> tuple[AttachResult | None, float | None]:
        """And for how long the session may go on. The ticket is as good as before if that is no
        time at all."""
        for pause in TICKET_PAUSES:
            await asyncio.sleep(pause)
            async with self._store.transaction() as connection:
                taken = await ownership.take(
                    connection,
                    session_id,
                    hash_ticket(ticket),
                    node_id=self._node_id,
                    resume_hash=hash_ticket(next_ticket) if next_ticket else None,
                    grace=self._settings.grace_seconds,
                )
                if taken is not None and taken.taken:
                    return taken, await self._meter.check(connection, taken.user_id)
                if taken is not None or not await ownership.is_elsewhere(
                    connection, session_id, self._node_id
                ):
                    return taken, None
        return None, None


@contextmanager
def _refusing(session_id: UUID) -> Iterator[None]:
    """Nobody can attach without the database."""
    try:
        yield
    except StoreUnavailable as error:
        log.error("admission_unavailable session=%s reason=%s", session_id, error)
        raise database_unavailable() from error


def _make_takeover(ticket: str, seen: ResumePoint, history: History) -> Takeover:
    missed = [
        StoredMessage(seq=m.seq, message_id=m.id, role=m.role, content=m.content)
        for m in history.messages
        if m.seq > seen.seq
    ]
    return Takeover(ticket=ticket, messages=missed)
