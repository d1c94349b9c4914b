"""Tells the Orchestrator of sessions that have ended: `conversation.ended`, once by its id.

Control plane; it runs in every process, if agent.yaml has `events`. A row that is due is claimed
for a while, told with the same Idempotency-Key and the same text whenever it is told, and marked. A
process that dies in between leaves it to the next; one that is not taken is tried again, later and
later, until it is too old.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import asdict, replace

from config import function_arguments
from config.agent import Events
from control.db import events
from control.db.events import Due, Ended, EndedIntent, EndedMessage, Instant
from control.db.rows import storable_json
from control.db.store import Store, StoreUnavailable
from control.outbox.orchestrator_client import Orchestrator, Post
from control.outbox.worker import (
    ATTEMPT_SECONDS,
    BACKOFF,
    CONFLICTS,
    LEASE_MARGIN,
    POLL_SECONDS,
)
from relay.functions.submission import Delayed, Submitted
from relay.supervisor import Supervisor
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

TYPE = "conversation.ended"
LEASE_SECONDS = ATTEMPT_SECONDS + LEASE_MARGIN


class ConversationEnded(msgspec.Struct, frozen=True, kw_only=True, tag=TYPE):
    """The body of a `conversation.ended`: a session that has ended and is not continued elsewhere.
    Other fields may be added."""

    id: Annotated[UUID, Meta(description="of the event; the same as the Idempotency-Key")]
    at: Annotated[Instant, Meta(description="when the end was stored, by the database's clock")]
    user_id: str
    conversation_id: UUID
    session_id: UUID
    title: Annotated[str | None, Meta(description="of the conversation; null: nothing was said")]
    reason: Annotated[str, Meta(description="why it ended: the reasons of close_codes.md")]
    language: Annotated[str | None, Meta(description="as chosen; null: as in agent.yaml")]
    began_at: Instant
    ended_at: Instant
    duration_seconds: Annotated[float, Meta(ge=0)]
    agent_seconds: Annotated[
        float, Meta(ge=0, description="for how long agents of this session were connected")
    ]
    intents: Annotated[
        list[EndedIntent],
        Meta(description="function calls of this session, in order; at most the newest 200"),
    ]
    intents_cut: Annotated[bool, Meta(description="there are more")]
    messages: (
        Annotated[
            list[EndedMessage],
            Meta(
                description="of this session, in order; at most the newest 1000 and 262144 bytes;"
                " left out with `messages: false` in agent.yaml"
            ),
        ]
        | UnsetType
    ) = UNSET
    messages_cut: Annotated[bool, Meta(description="there are more")] | UnsetType = UNSET
    messages_url: Annotated[
        str,
        Meta(description="the whole conversation, for who signs in as its user"),
    ]


def make_id(session_id: UUID) -> UUID:
    """A session ends once, whoever tells of it and how often."""
    return uuid5(session_id, TYPE)


def compose(ended: Ended, *, public_url: str, messages: bool) -> str:
    """The JSON of the event; `messages`: with what was said."""
    session = ended.session
    path = f"/api/v1/voice/conversations/{session.conversation_id}/export?format=json"
    body = ConversationEnded(
        **asdict(session),
        id=make_id(session.session_id),
        duration_seconds=round(max((session.ended_at - session.began_at).total_seconds(), 0.0), 3),
        intents=[
            replace(each, parameters=function_arguments.show(each.parameters))
            for each in ended.intents
        ],
        intents_cut=ended.intents_cut,
        messages=ended.messages if messages else UNSET,
        messages_cut=ended.messages_cut if messages else UNSET,
        messages_url=public_url.rstrip("/") + path,
    )
    return storable_json(body) or ""


class EventWorker:
    """`public_url` is ours (empty: not known); `max_age` is in seconds: what is older is not told
    any more."""

    def __init__(
        self,
        store: Store,
        wanted: Events,
        metrics: Metrics,
        *,
        planner: Orchestrator,
        public_url: str,
        max_age: float,
        supervisor: Supervisor | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._wanted = wanted
        self._metrics = metrics
        self._planner = planner
        self._public_url = public_url
        self._max_age = max_age
        self._supervisor = supervisor or Supervisor(metrics)
        self._jitter = jitter

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tell while inside. One that is on its way when we stop is told again by another process
        when the lease is over."""
        async with self._supervisor.repeating(
            "events",
            self.look,
            pause=lambda: asyncio.sleep(POLL_SECONDS * (0.5 + self._jitter())),
            foreseen=(StoreUnavailable,),
            say=lambda error: log.error("events_paused reason=%s", error),
        ):
            yield

    async def look(self) -> None:
        """Tell all that is due, one after another, as long as it makes sense to ask."""
        if not await events.is_any_due(self._store):
            return
        while self._planner.wait == 0:
            due = await events.claim_event(self._store, lease=LEASE_SECONDS)
            if due is None:
                return
            await self._deliver(due)

    async def _deliver(self, due: Due) -> None:
        if due.age >= self._max_age:
            await self._fail(due, None, due.attempts, "too old", "failed")
            return
        body = due.body or await self._compose(due.session_id)
        if body is None:
            return
        outcome = await self._planner.post(
            Post(
                name=TYPE,
                path=self._wanted.path,
                key=str(make_id(due.session_id)),
                body=body.encode(),
                seconds=ATTEMPT_SECONDS,
                in_doubt=1 < due.claims <= CONFLICTS,
            )
        )
        attempts = due.attempts + outcome.attempts
        match outcome:
            case Submitted():
                await events.note_delivered(self._store, due.session_id)
                self._note(due, "delivered", attempts)
            case Delayed():
                pause = max(BACKOFF.pause(max(attempts, 1), self._jitter()), outcome.wait)
                error = f"{outcome.reason} ({outcome.cause})"
                await self._fail(due, pause, attempts, error, "delayed")
            case _:
                await self._fail(due, None, attempts, outcome.reason, "refused")

    async def _compose(self, session_id: UUID) -> str | None:
        ended = await events.load_ended(self._store, session_id)
        if ended is None:
            return None
        body = compose(ended, public_url=self._public_url, messages=self._wanted.messages)
        await events.keep_body(self._store, session_id, body)
        return body

    async def _fail(
        self, due: Due, pause: float | None, attempts: int, error: str, status: str
    ) -> None:
        """`pause`: until it is tried again; None: it is not."""
        if pause is not None and due.age + pause >= self._max_age:
            pause, status = None, "failed"
        await events.note_failed(self._store, due, attempts=attempts, error=error, pause=pause)
        self._note(due, status, attempts)

    def _note(self, due: Due, status: str, attempts: int) -> None:
        self._metrics.event_deliveries.labels(status=status).inc()
        log.log(
            logging.WARNING if status in ("refused", "failed") else logging.INFO,
            "event_delivery type=%s status=%s attempts=%d age=%.0f session=%s",
            TYPE,
            status,
            attempts,
            due.age,
            due.session_id,
        )
