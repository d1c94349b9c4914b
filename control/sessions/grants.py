"""What becomes of a ticket that one of Deepgram's own clients was granted.

Control plane. A grant is a `POST /session` that is put off: whoever comes with it to
`/v1/agent/converse` gets a new session, by the same way as with a ticket of a session.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from uuid_utils.compat import uuid7

from config.agent import Agent
from config.settings import Settings
from control.db import grants, sessions
from control.db.rows import NewSession
from control.db.store import Store
from control.sessions.admission import refusing
from relay.core.admitted import Admit, Admitted, ResumePoint
from relay.live.tickets import hash_ticket
from relay.protocol.refusal import Refused


async def admit_grant(
    store: Store,
    settings: Settings,
    agent: Agent,
    expect: Callable[[UUID], None],
    admit: Admit,
    ticket: str,
) -> Admitted:
    """Lets an official client in: with its first arguments, it is a
    `relay.core.admitted.AdmitGrant`.

    `expect` hears of each session that a browser will attach to in a moment.
    """
    session_id = uuid7()
    with refusing(session_id):
        async with store.transaction() as connection:
            grant = await grants.take(connection, hash_ticket(ticket))
        if grant is None:
            raise Refused(401, "ticket_refused", "the ticket is not valid")
        session = NewSession(
            id=session_id,
            conversation_id=grant.conversation_id or uuid7(),
            user_id=grant.user_id,
            ticket_hash=hash_ticket(ticket),
            ticket_seconds=settings.ticket_seconds,
            timezone=grant.timezone,
            audio=agent.audio,  # until the client says which
        )
        resume = grant.conversation_id is not None
        if await sessions.create_session(store, session, resume=resume) is None:
            raise Refused(401, "ticket_refused", "the conversation was erased")
    expect(session_id)
    return await admit(session_id, ticket, ResumePoint())
