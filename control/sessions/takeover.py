"""A conversation goes from the sessions that had it to a new one, in this process or another, and
to an agent that does not know it.

Control plane. What was said before is in Postgres first, as far as that is possible; numbers are
left free for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from operator import itemgetter
from uuid import UUID

from control.db import conversations, ownership
from control.db.rows import AttachResult, History, IntentCall, Numbering
from control.db.store import Store
from control.errors import RETRY_SECONDS
from relay.core.message_policy import STILL_RUNNING
from relay.core.records import IntentCalled
from relay.functions import submission
from relay.protocol import deepgram
from relay.protocol.refusal import Refused
from relay.protocol.relay_events import OPEN

HANDOVER_SECONDS = 1.0  # what an owner that lives gets to store its last words
HANDOVER_LOOK = 0.05

Settle = Callable[[UUID], Awaitable[bool]]
"""`await settle(conversation_id)` ends what is live of a conversation in this process and waits
until it is stored; False: it is not."""


async def take_over(
    store: Store,
    settle: Settle,
    session_id: UUID,
    conversation_id: UUID,
    taken: AttachResult | None = None,
    received: int = 0,
) -> tuple[Numbering, History]:
    """What the session goes on from; those who had the conversation were told that they are over.

    `taken`: another relay had the session itself, and the browser has got `received` text frames
    from it. Raises `Refused` and `StoreUnavailable`.
    """
    if not await settle(conversation_id) and taken is None:
        detail = "an earlier session is not stored yet; begin another"
        raise Refused(503, "conversation_busy", detail, retry_after=RETRY_SECONDS)

    async def may_settle() -> bool:
        async with store.transaction() as connection:
            return await ownership.may_settle(
                connection,
                session_id,
                conversation_id,
                before_us=taken is not None and taken.owner_lives,
            )

    with suppress(TimeoutError):  # then numbers are left free for it
        async with asyncio.timeout(HANDOVER_SECONDS):
            # The owner is another process: there is no event to wait for.
            while await may_settle():  # noqa: ASYNC110
                await asyncio.sleep(HANDOVER_LOOK)
    async with store.transaction() as connection:
        numbering = await ownership.number(connection, conversation_id, session_id)
        history = await conversations.read_history(connection, conversation_id)
        if taken is not None:
            await ownership.void_unseen(
                connection, session_id, taken.epoch, received=received, since=taken.taken_at
            )
    return numbering, history


def history_for_agent(history: History) -> list[deepgram.History]:
    """The stored conversation as Deepgram takes it: each call after the message it followed."""
    lines = [
        (message.seq, 0, deepgram.History(role=message.role, content=message.content))
        for message in history.messages
    ]
    lines += [(call.after_seq, 1, _tell(call)) for call in history.calls]
    return [line for _, _, line in sorted(lines, key=itemgetter(0, 1))]


def open_calls(history: History, conversation_id: UUID) -> list[IntentCalled]:
    """Those that have no outcome yet: the next session hears of it."""
    return [
        IntentCalled(
            id=call.id,
            conversation_id=conversation_id,
            session_id=call.session_id,
            call_id=call.call_id,
            after_seq=call.after_seq,
            function=call.function,
            intent=call.intent,
            arguments=call.arguments,
            status=call.status,
            attempts=call.attempts,
            at=call.updated_at,
            response=_response(call),
        )
        for call in history.calls
        if call.status in OPEN
    ]


def _response(call: IntentCall) -> str:
    told = submission.retold(call.status, call.response, taken_back=call.taken_back)
    return told or STILL_RUNNING


def _tell(call: IntentCall) -> deepgram.History:
    finished = deepgram.FinishedCall(
        id=call.call_id,
        name=call.function,
        client_side=True,
        arguments=call.arguments,
        response=_response(call),
    )
    return deepgram.History(function_calls=[finished])
