"""REST: begin, look at and end a session.

Control plane, under /api/v1/voice/session. A session is begun here and gets a ticket, which its
WebSocket is opened with (admission.py), once. Only the ticket's SHA-256 is stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, SkipValidation
from msgspec.structs import asdict, replace
from uuid_utils.compat import uuid7

from config import timezones
from config.agent import Agent, Audio
from config.policy import Policy, choose
from config.settings import Settings
from control.api.problems import describe_problems
from control.auth.current_user import User
from control.db import conversations, sessions, usage
from control.db.rows import History, Message, NewSession, SessionView
from control.db.store import Store
from control.errors import Mistake, invalid, not_found, require
from control.http.sibling_sessions import SiblingSessions
from control.sessions.direct import Direct, DirectBegun
from control.sessions.meter import Meter, cost
from control.sessions.recordings import may_record
from relay.live.quotas import Room, block
from relay.live.session_registry import SessionRegistry
from relay.live.tickets import hash_ticket, new_ticket
from relay.protocol.audio_formats import AudioWish, choose_audio

PREFIX = "/api/v1/voice"
UTC = "UTC"  # the time zone of who does not say, or does not know
AnySessionView = TypeVar("AnySessionView", bound=SessionView)
NOT_KEPT = {"Cache-Control": "no-store"}
SESSION_KEY = "x-session-key"  # a load balancer's: docs/deploy.md
_KEY = re.compile("[0-9a-f]{12}")
HUNG_UP = "hung_up"  # the end of a session that was closed over REST before it began


# What handlers ask for by name. `Live` is not validated: tests have one of their own.
Database = NamedDependency[Store]
Asker = NamedDependency[User]
Live = SkipValidation[NamedDependency[SessionRegistry]]


class SessionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`conversation_id` resumes; `timezone` is an IANA name and tells the model what today is (UTC
    if it is none); `voice` and `language` are names that policy.yaml offers. `record`: the user
    wants the audio of both sides to be recorded; the answer says whether it is."""

    conversation_id: UUID | None = None
    audio: AudioWish = AudioWish()
    timezone: str | None = None
    voice: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    language: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    transport: Literal["relay", "direct"] = "relay"
    record: bool = False


class SessionBegun(msgspec.Struct, frozen=True, kw_only=True):
    """Open `websocket_url` with the subprotocols `relay.v1` and `ticket` before it expires.

    `messages` are the newest stored ones of a resumed conversation, in order. `timezone` is the one
    that counts; `warnings` say what of the request counts for something else. `recorded`:
    whether the audio is recorded, which the user has to be told.
    """

    session_id: UUID
    conversation_id: UUID
    websocket_url: str
    ticket: str
    ticket_expires_at: datetime
    audio: Audio
    timezone: str
    messages: list[Message]
    warnings: list[Mistake] = []
    recorded: bool = False


class SessionController(Controller):
    path = "/session"
    tags = ("session",)

    @post(
        "/",
        summary="Begin a session, in a new conversation or in a stored one",
        responses=describe_problems(400, 403, 404, 413, 429),
    )
    async def begin_session(
        self,
        request: Request[Any, Any, Any],
        store: Database,
        settings: NamedDependency[Settings],
        agent: NamedDependency[Agent],
        policy: NamedDependency[Policy],
        live: Live,
        direct: NamedDependency[Direct],
        meter: SkipValidation[NamedDependency[Meter]],
        sibling_sessions: SkipValidation[NamedDependency[SiblingSessions]],
        user: Asker,
        data: JSONBody[SessionRequest | None] = None,
    ) -> Response[SessionBegun | DirectBegun]:
        live.check_open()
        wanted = data or SessionRequest()
        if wanted.conversation_id is None:  # else it may take the place of another: at the attach
            room = _room(request, user)
            live.check(room, await sibling_sessions.count(room))
        audio = _check(wanted, agent, policy)
        timezone, warnings = read_timezone(wanted.timezone)
        resume = wanted.conversation_id is not None
        ticket = new_ticket()
        session = NewSession(
            id=make_session_id(request.headers.get(SESSION_KEY)),
            conversation_id=wanted.conversation_id or uuid7(),
            user_id=user.id,
            ticket_hash=hash_ticket(ticket),
            ticket_seconds=settings.ticket_seconds,
            timezone=timezone,
            audio=audio,
            voice=wanted.voice,
            language=wanted.language,
            record_audio=_is_recorded(wanted, settings, audio),
        )
        if wanted.transport == "direct":
            shown = await direct.begin(session, resume=resume, warnings=warnings)
            return Response(shown, status_code=201, headers=NOT_KEPT)
        check = partial(meter.check, user_id=user.id)
        expires_at = await sessions.create_session(store, session, check, resume=resume)
        expires_at = require(expires_at, "conversation")
        await sibling_sessions.expect(session.id, session)
        history = History()
        if resume:
            history = await conversations.load_history(store, session.conversation_id)
        public_url = settings.public_url or str(request.base_url)
        begun = SessionBegun(
            session_id=session.id,
            conversation_id=session.conversation_id,
            websocket_url=make_websocket_url(public_url, session.id),
            ticket=ticket,
            ticket_expires_at=expires_at,
            audio=audio,
            timezone=timezone,
            messages=history.messages,
            warnings=warnings,
            recorded=session.record_audio,
        )
        return Response(begun, status_code=201, headers=NOT_KEPT)

    @get("/{session_id:uuid}", summary="Look at a session", responses=describe_problems(404))
    async def get_session(
        self,
        store: Database,
        live: Live,
        settings: NamedDependency[Settings],
        user: Asker,
        session_id: FromPath[UUID],
    ) -> SessionView:
        session = require(await sessions.get_session(store, session_id, user_id=user.id), "session")
        return await show(store, live, session, settings.price_per_minute)

    @delete(
        "/{session_id:uuid}",
        summary="End a session and close its conversation",
        responses=describe_problems(403, 404),
    )
    async def end_session(
        self, store: Database, live: Live, user: Asker, session_id: FromPath[UUID]
    ) -> None:
        epoch = live.epoch(session_id)
        if not await sessions.close_session(
            store, session_id, user_id=user.id, reason=HUNG_UP, epoch_here=epoch
        ):
            raise not_found("session")
        live.hang_up(session_id)


async def show(
    store: Store, live: SessionRegistry, session: AnySessionView, price_per_minute: float
) -> AnySessionView:
    """With what it carried so far, if it is live here, and what it cost."""
    if figures := live.figures(session.id):
        epoch = live.epoch(session.id) or 0
        async with store.reading() as connection:
            others = await usage.sum_others(connection, session.id, epoch)
        seconds = round(others + figures.agent_seconds, 3)
        session = replace(session, state="live", **asdict(figures) | {"agent_seconds": seconds})
    return replace(session, cost=cost(session.agent_seconds, price_per_minute))


def make_session_id(key: str | None) -> UUID:
    """A new one. Its last part is `key`, if that is 12 hex digits: a balancer that sent the `POST`
    here by this key sends the WebSocket here by that part. A browser that makes one up has an id of
    its own all the same."""
    made = uuid7()
    if key is None or _KEY.fullmatch(key) is None:
        return made
    # The time, and enough that is not the key's.
    return UUID(bytes=made.bytes[:8] + uuid4().bytes[8:10] + bytes.fromhex(key))


def make_websocket_url(public_url: str, session_id: UUID) -> str:
    """`public_url` is http(s) or ws(s), with the path that a proxy puts us under, if any."""
    parts = urlsplit(public_url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = f"{parts.path.rstrip('/')}{PREFIX}/session/{session_id}/ws"
    return f"{scheme}://{parts.netloc}{path}"


def _room(request: Request[Any, Any, Any], user: User) -> Room:
    """What is looked for sooner than at the attach, when nothing is written yet."""
    return Room(block(request.client.host if request.client else ""), user.id, None)


def _check(wanted: SessionRequest, agent: Agent, policy: Policy) -> Audio:
    """The audio of the session. Raises `ProblemError` with every mistake of the request."""
    mistakes = _check_choice("voice", wanted.voice, policy.voices)
    mistakes += _check_choice("language", wanted.language, policy.languages)
    if not mistakes:
        agent = choose(agent, policy, wanted.voice, wanted.language)
    audio, lines = choose_audio(wanted.audio, agent.audio, agent)
    parted = (line.partition(": ") for line in lines)
    mistakes += [Mistake(path, detail) for path, _, detail in parted]
    if mistakes:
        raise invalid(*mistakes)
    return audio


def _is_recorded(wanted: SessionRequest, settings: Settings, audio: Audio) -> bool:
    return wanted.record and wanted.transport == "relay" and may_record(settings, audio)


def read_timezone(name: str | None) -> tuple[str, list[Mistake]]:
    """The zone that counts, and a warning if it is not the one asked for.

    A browser that does not know where it is says `Etc/Unknown`; its user may talk all the same.
    """
    if name is None or timezones.find(name) is not None:
        return name or UTC, []
    got = f"got {name[: timezones.LONGEST]!r}; it is {UTC}"
    return UTC, [Mistake("timezone", f"expected an IANA name like Europe/Berlin, {got}")]


def _check_choice(path: str, name: str | None, offered: Mapping[str, object]) -> list[Mistake]:
    if name is None or name in offered:
        return []
    names = f"one of {', '.join(offered)}" if offered else "none: nothing is offered"
    return [Mistake(path, f"expected {names}, got {name!r}")]
