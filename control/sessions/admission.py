"""Who may attach to a session: with its first ticket, or from another relay.

Control plane. From then on this node is the owner of the session. What is said before in the
conversation is in Postgres first, as far as that is possible.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from control.db import ownership
from control.db.rows import AttachRequest, AttachResult, History, Numbering
from control.db.store import Store, StoreUnavailable
from control.errors import database_unavailable
from control.sessions.history import history_for_agent
from control.sessions.takeover import Settle, take_over
from relay.core.admitted import Admitted, ResumePoint, Takeover
from relay.live.tickets import hash_ticket, new_ticket
from relay.protocol.refusal import Refused
from relay.protocol.relay_events import StoredMessage

log = logging.getLogger(__name__)

# A ticket that was issued just now may still be on its way from its relay to the database.
TICKET_PAUSES = (0.0, 0.1, 0.3)

NOTHING_SEEN = ResumePoint()


class Admission:
    """Lets a browser attach, with the first ticket of its session or from another relay:
    `relay.core.admitted.Admit`. From then on this node is the session's owner.

    Whatever is wrong with a ticket (unknown session, another's, used, expired), the answer is the
    same 401, so that nothing can be learnt by trying. Who has the right ticket of a session that is
    over is told so (409).
    """

    def __init__(
        self,
        store: Store,
        settle: Settle,
        *,
        node_id: UUID,
        grace: float,
    ) -> None:
        """`grace`: seconds that a drained session may be had after its end."""
        self._store = store
        self._settle = settle
        self._node_id = node_id
        self._grace = grace

    async def __call__(
        self, session_id: UUID, ticket: str, seen: ResumePoint = NOTHING_SEEN
    ) -> Admitted:
        with refusing(session_id):
            return await self._admit(session_id, ticket, seen)

    async def _admit(self, session_id: UUID, ticket: str, seen: ResumePoint) -> Admitted:
        next_ticket = new_ticket() if self._grace else None
        request = AttachRequest(
            session_id=session_id,
            ticket_hash=hash_ticket(ticket),
            node_id=self._node_id,
            resume_hash=hash_ticket(next_ticket) if next_ticket else None,
            grace=self._grace,
            received=seen.received,
        )
        taken = await self._take(request)
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
                taken_over=taken.taken_over,
                owner_lives=taken.owner_lives,
            )
        if taken.taken_over:
            log.info("session_taken_over session=%s epoch=%d", session_id, taken.epoch)
        return Admitted(
            session_id=session_id,
            conversation_id=taken.conversation_id,
            user_id=taken.user_id,
            timezone=taken.timezone,
            audio=taken.audio,
            voice=taken.voice,
            language=taken.language,
            last_seq=numbering.last_seq,
            last_turn=numbering.last_turn,
            last_role=numbering.last_role,
            history=history_for_agent(history),
            epoch=taken.epoch,
            resume_ticket=next_ticket,
            takeover=_make_takeover(ticket, seen, history) if taken.taken_over else None,
        )

    async def _take(self, request: AttachRequest) -> AttachResult | None:
        for pause in TICKET_PAUSES:
            await asyncio.sleep(pause)
            async with self._store.transaction() as connection:
                taken = await ownership.take(connection, request)
                if taken is not None or not await ownership.is_elsewhere(
                    connection, request.session_id, self._node_id
                ):
                    return taken
        return None


@contextmanager
def refusing(session_id: UUID) -> Iterator[None]:
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
