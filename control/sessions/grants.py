"""What becomes of a ticket that one of Deepgram's own clients was granted.

Control plane. A grant is a `POST /session` that is put off: whoever comes with it to
`/v1/agent/converse` gets a new session, by the same way as with a ticket of a session.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from uuid_utils.compat import uuid7

from config.agent import Agent
from control.db import grants, sessions
from control.db.rows import NewSession
from control.db.store import Store, StoreUnavailable
from control.sessions.admission import refuse_unavailable
from relay.core.admitted import Admit, Admitted, ResumePoint
from relay.live.tickets import hash_ticket
from relay.protocol.refusal import Refused


class GrantAdmission:
    """Lets an official client in: `relay.core.admitted.AdmitGrant`."""

    def __init__(
        self,
        store: Store,
        agent: Agent,
        expect: Callable[[UUID], None],
        admit: Admit,
        *,
        ticket_seconds: float,
    ) -> None:
        """`expect` hears of each session that a browser will attach to in a moment."""
        self._store = store
        self._expect = expect
        self._admit = admit
        self._ticket_seconds = ticket_seconds
        self._audio = agent.audio  # until the client says which

    async def __call__(self, ticket: str) -> Admitted:
        session_id = uuid7()
        try:
            async with self._store.transaction() as connection:
                grant = await grants.take(connection, hash_ticket(ticket))
            if grant is None:
                raise Refused(401, "ticket_refused", "the ticket is not valid")
            session = NewSession(
                id=session_id,
                conversation_id=grant.conversation_id or uuid7(),
                user_id=grant.user_id,
                ticket_hash=hash_ticket(ticket),
                ticket_seconds=self._ticket_seconds,
                timezone=grant.timezone,
                audio=self._audio,
            )
            resume = grant.conversation_id is not None
            if await sessions.create_session(self._store, session, resume=resume) is None:
                raise Refused(401, "ticket_refused", "the conversation was erased")
        except StoreUnavailable as error:
            raise refuse_unavailable(session_id, error) from error
        self._expect(session_id)
        return await self._admit(session_id, ticket, ResumePoint())
