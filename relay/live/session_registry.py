"""The live sessions of this process: attach, look up, hang up, drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from random import random
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from config.current import Current
from config.limits import Limits
from config.loader import Configuration
from relay.core.admitted import Admitted, ResumePoint
from relay.core.agent_lifecycle import State
from relay.core.beginning import Beginning, Chance
from relay.core.deepgram_session import DEFAULT_AUDIO
from relay.core.events import Allowed, EndReason, GoAway
from relay.core.records import AgentTime, Figures
from relay.core.user_context import About, AskContext
from relay.core.watcher import Listen, Watch, watched
from relay.functions.executor import Functions
from relay.journal.journal import Journal
from relay.live import agent_settings, quotas
from relay.live.alarms import Alarms
from relay.live.dial_ahead import Ask, DialAhead
from relay.live.quotas import NOBODY, AgentQuota, Attached, Counted, Room, block, check_room
from relay.live.session_record import SessionRecord
from relay.live.session_runner import SessionRunner
from relay.live.tickets import new_ticket
from relay.live.watchers import Watchers
from relay.protocol.audio_formats import bytes_per_second, tone
from relay.protocol.refusal import Refused
from relay.supervisor import Contained, Supervisor
from relay.telemetry.log_context import answering
from relay.telemetry.log_limit import LogLimit
from relay.telemetry.metrics import Metrics
from relay.transport.connection import Connection
from relay.transport.dial import Dial, LimitedDial
from relay.transport.send_queue import SendQueue
from relay.transport.upgrade import Handshake

log = logging.getLogger(__name__)

RETRY_SECONDS = 10  # what Retry-After says while we stop
END_SECONDS = 3.0  # for sessions that were hung up; a socket is cut after 0.8 s
CHANCE = Chance(uuid7, random, new_ticket)


def _no_agents() -> Refused:
    detail = "there are as many voice agents as there may be; try again later"
    return Refused(503, "agent_sessions", detail, retry_after=RETRY_SECONDS)


class SessionRegistry:
    """Every live session of this process, by its id."""

    def __init__(
        self,
        current: Current,
        limits: Limits,
        *,
        dial: Dial,
        functions: Functions,
        journal: Journal,
        metrics: Metrics,
        share: AgentQuota,
        grow: Callable[[], Awaitable[None]],
        ask: AskContext | None = None,
        supervisor: Supervisor | None = None,
        watches: Sequence[Watch] = (),
        listen: Listen | None = None,
    ) -> None:
        """`share` is this process's part of the agents that all relays may have; `grow` asks for
        more of it, and does not raise. `ask`: whom to ask what is known of a user. `watches`: who
        watches each session; `listen`: who hears the audio of those that agreed."""
        self._current = current
        self._limits = limits
        self._dial = LimitedDial(dial, metrics).dial
        self._log_limit = LogLimit()
        self._alarms = Alarms()
        self._functions = functions
        self._journal = journal
        self._metrics = metrics
        self.is_draining = False  # we stop
        self.is_drained = False  # an administrator wants no new sessions here
        self._live: dict[UUID, SessionRunner] = {}
        self._share = share
        self._grow = grow
        self._ask = ask
        self._watches = watches
        self._listen = listen
        for reason in EndReason:
            metrics.sessions_ended.labels(reason=reason.value)  # 0 before the first time
        for state in State:
            metrics.sessions.labels(state=state.value).set_function(partial(self._count, state))
        metrics.agents_used.set_function(lambda: share.used)
        metrics.agents_headroom.set_function(lambda: share.headroom)
        self._attached: dict[UUID, Attached] = {}  # of those that are live, until they make room
        self._attaching = 0
        # What the other workers have, where there are such.
        self.count_elsewhere: Callable[[Room], Awaitable[Counted]] | None = None
        self._supervisor = supervisor or Supervisor(metrics)
        self._tasks: Contained | None = None
        self._ahead = DialAhead(
            self._dial,
            self._new_agent_connection,
            metrics,
            share=self._share,
            limit=limits.dial_ahead,
        )

    def __repr__(self) -> str:
        return f"<SessionRegistry live={len(self._live)}>"

    def __len__(self) -> int:
        return len(self._live)

    def _count(self, state: State) -> int:
        return sum(runner.state is state for runner in self._live.values())

    @contextmanager
    def admitting(self, handshake: Handshake) -> Iterator[None]:
        """Somebody asks to attach: until that is answered, and only so many at once.

        Raises `Refused` when there is no room, before anybody else is asked.
        """
        self.check_open()
        if self._attaching >= self._limits.handshakes:
            detail = "too many wait to be let in; try again"
            raise Refused(503, "handshakes", detail, retry_after=RETRY_SECONDS)
        self.check(Room(block(handshake.address), None, None))
        self._attaching += 1
        try:
            yield
        finally:
            self._attaching -= 1

    def check(self, room: Room, elsewhere: Counted = NOBODY) -> None:
        """Raises `Refused` if no more sessions may begin: here, from there, or of that user;
        `elsewhere` is what the other workers have."""
        check_room(self._limits, self._attached.values(), room, elsewhere)
        if not self._share.headroom:
            raise _no_agents()

    def count_refusal(self, refused: Refused) -> None:
        """Somebody was not let in."""
        self._metrics.refusals.labels(code=refused.code).inc()

    async def begin(
        self,
        admitted: Admitted,
        handshake: Handshake,
        headers: Mapping[str, str],
        *,
        is_deepgram_client: bool = False,
    ) -> None:
        """Accept the handshake, with these headers, and relay, in a task of our own: the request
        may end.

        `is_deepgram_client`: it speaks Deepgram's protocol, in which there is no coming back.
        Raises `Refused` when the user, or who is at this address, has enough sessions, or when
        there is no agent left.
        """
        if self._tasks is None:
            raise RuntimeError("the registry is not running")
        session_id = admitted.session_id
        if is_deepgram_client:
            admitted = msgspec.structs.replace(admitted, audio=DEFAULT_AUDIO)  # until its Settings
        if not self._share.enter(session_id):
            await self._grow()
            if not self._share.enter(session_id):
                raise _no_agents()
        try:
            await self._claim(admitted, block(handshake.address))
        except Refused:
            self._ahead.cancel(session_id)
            self._share.leave(session_id)
            raise
        most = self._limits.browser_message_bytes
        browser = Connection(self._queue(admitted), max_message_bytes=most)
        dialled = self._ahead.take(session_id, is_new=admitted.takeover is None)
        agent = dialled.connection if dialled else self._new_agent_connection()
        configuration = self._current.configuration
        has_sound = configuration.agent.redial_sound == "on"
        ask = self._asking(admitted)
        beginning = self._beginning(configuration, admitted, is_deepgram_client=is_deepgram_client)
        watchers = self._watchers(beginning)
        record = SessionRecord(admitted, self._journal, self._metrics, self._log_limit, watchers)
        compose = partial(agent_settings.compose, configuration, admitted)
        runner = SessionRunner(
            beginning.rules(compose, watched(CHANCE, watchers) if watchers else CHANCE),
            record,
            connections=(browser, agent),
            dials=(dialled.connect if dialled else self._dial, self._dial),
            asks=(dialled.known if dialled else ask, ask) if ask else None,
            tasks=self._tasks,
            calls=(self._functions, configuration.registry),
            share=self._share,
            alarms=self._alarms,
            redial_tone=tone(admitted.audio.output) if has_sound else b"",
        )
        self._accept(handshake, browser, headers)
        record.attached("deepgram" if is_deepgram_client else "relay")
        self._live[session_id] = runner
        self._metrics.sessions_live.set(len(self._live))
        self._tasks.start(self._relay(session_id, runner), name=f"session {session_id}")

    async def _claim(self, admitted: Admitted, where: str) -> None:
        """Count a session among those that are attached. Raises `Refused` if there is no room.

        It counts before the others are asked: of two that come at once to two workers, each sees
        the other, and at the limit neither is let in.
        """
        session_id, limits = admitted.session_id, self._limits
        before = self._attached.pop(session_id, None)
        claim = Attached(admitted.user_id, where, admitted.conversation_id)
        room = Room(where, admitted.user_id, admitted.conversation_id)
        try:
            check_room(limits, self._attached.values(), room)
            if self.count_elsewhere and (limits.sessions_per_user or limits.sessions_per_address):
                self._attached[session_id] = claim
                check_room(limits, self._attached.values(), room, await self.count_elsewhere(room))
        except Refused:
            self._attached.pop(session_id, None)
            if before is not None:
                self._attached[session_id] = before
            raise
        self._attached[session_id] = claim

    def _asking(self, about: About) -> Ask | None:
        return partial(self._ask, about) if self._ask else None

    def _watchers(self, beginning: Beginning) -> Watchers:
        watches = (partial(watch, beginning) for watch in self._watches)
        return Watchers(watches, partial(self._listen, beginning) if self._listen else None)

    def _beginning(
        self, configuration: Configuration, admitted: Admitted, *, is_deepgram_client: bool
    ) -> Beginning:
        """Of a session that begins now."""
        limits = self._limits
        if is_deepgram_client:
            limits = msgspec.structs.replace(limits, grace_seconds=0.0)
        return Beginning(
            admitted=admitted,
            limits=limits,
            policy=configuration.policy,
            now=asyncio.get_running_loop().time(),
            began=datetime.now(UTC),
            asks=self._ask is not None,
            deepgram_client=configuration.agent if is_deepgram_client else None,
        )

    def resume(
        self,
        session_id: UUID,
        ticket: str,
        seen: ResumePoint,
        handshake: Handshake,
        headers: Mapping[str, str],
    ) -> bool:
        """Let a browser come back to a session that is live here; no database is asked.

        False: there is no such session, or the ticket is not its. Raises `Refused` when it cannot
        have `seen` so much, and when nobody may attach any more.
        """
        self._check_running()
        runner = self._live.get(session_id)
        connection = runner.resume(ticket, seen.received) if runner else None
        if runner is None or connection is None:
            return False
        self._accept(handshake, connection, headers)
        return True

    def check_open(self) -> None:
        """Raises `Refused` when no more sessions may begin here."""
        self._check_running()
        if self.is_drained:
            detail = "this relay takes no new sessions; ask another"
            raise Refused(503, "drained", detail, retry_after=RETRY_SECONDS)

    def _check_running(self) -> None:
        if self.is_draining:
            raise Refused(503, "stopping", "the relay stops", retry_after=RETRY_SECONDS)

    def _accept(
        self, handshake: Handshake, browser: Connection, headers: Mapping[str, str]
    ) -> None:
        handshake.accept(
            browser,
            {**headers, **answering()},
            ping_seconds=self._limits.ping_seconds,
            max_message_bytes=self._limits.browser_message_bytes,
            on_shutdown=self.drain,
        )

    def _queue(self, admitted: Admitted) -> SendQueue:
        """Towards a browser: what is older than so many seconds of speech nobody wants to hear."""
        a_second = bytes_per_second(admitted.audio.output)
        most = None if a_second is None else int(a_second * self._limits.lane_seconds)
        return SendQueue(self._limits.lane_bytes, audio_limit=most)

    def _new_agent_connection(self) -> Connection:
        queue = SendQueue(self._limits.held_audio_bytes, held=True)
        return Connection(queue, max_message_bytes=self._limits.max_message_bytes)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sessions may begin while inside; on the way out those that live are ended."""
        async with self._supervisor.containing("session", seconds=END_SECONDS) as tasks:
            self._tasks = tasks
            try:
                yield
            finally:  # also when we may not wait and are cancelled
                self._tasks = None
                self._ahead.close()
                for runner in list(self._live.values()):
                    runner.hang_up(EndReason.SHUTDOWN)

    def expect(self, session_id: UUID, about: About) -> None:
        """A browser is about to attach, with the session of this user: have its agent ready."""
        if self._tasks is not None:
            self._ahead.begin(session_id, self._tasks, self._asking(about))

    async def _relay(self, session_id: UUID, runner: SessionRunner) -> None:
        try:
            await runner.run()
        except Exception:
            # The top of this task: one session that breaks must not take the others with it.
            self._supervisor.count("session")
            log.exception("session_broken session=%s", session_id)
        finally:
            # It may have gone to another relay and come back while this one was closing.
            if self._live.get(session_id) is runner:
                del self._live[session_id]
                self._attached.pop(session_id, None)
                self._share.leave(session_id)
            self._metrics.sessions_live.set(len(self._live))

    async def make_room(self, conversation_id: UUID, seconds: float) -> bool:
        """End what is live in a conversation and have all of it in Postgres.

        A conversation has one numbering and so one session at a time; the newest wins. False when
        the database did not take it in `seconds`.
        """
        for session_id, runner in list(self._live.items()):
            if runner.admitted.conversation_id == conversation_id:
                self._attached.pop(
                    session_id, None
                )  # it makes room for the one that takes its place
                runner.hang_up(EndReason.SUPERSEDED)
        return await self._journal.settled(seconds)

    def drain(self) -> None:
        """The server is about to stop: no browser may attach, and sessions end, soon."""
        if self.is_draining:
            return
        self.is_draining = True
        log.info("drain_began sessions=%d", len(self._live))
        for runner in list(self._live.values()):
            runner.handle(GoAway())

    def hang_up(self, session_id: UUID, reason: EndReason = EndReason.HUNG_UP) -> None:
        """End a session, if it is live here, as the user or somebody elsewhere wants it."""
        self._ahead.cancel(session_id)
        if runner := self._live.get(session_id):
            runner.hang_up(reason)

    @property
    def owned(self) -> dict[UUID, int]:
        """The sessions that are live here, each with our number among its owners."""
        return {i: runner.admitted.epoch for i, runner in self._live.items() if runner.is_live}

    def epoch(self, session_id: UUID) -> int | None:
        """Our number among the owners of this session; None: it is not live here."""
        runner = self._live.get(session_id)
        return runner.admitted.epoch if runner and runner.is_live else None

    @property
    def agent_times(self) -> list[AgentTime]:
        """Of the sessions that are live here, and of agents that were dialled ahead in vain."""
        now = datetime.now(UTC)
        return [
            *(runner.agent_time for runner in self._live.values() if runner.is_live),
            *(
                AgentTime(session_id=session_id, epoch=0, seconds=seconds, at=now)
                for session_id, seconds in self._ahead.in_vain.items()
            ),
        ]

    def counted(self, time: AgentTime) -> None:
        """This one is stored."""
        if time.epoch == 0 and self._ahead.forget_in_vain(time.session_id):
            self._metrics.agent_seconds.inc(time.seconds)

    @property
    def users(self) -> dict[UUID, str]:
        """Whose sessions are live here."""
        return {i: runner.admitted.user_id for i, runner in self._live.items() if runner.is_live}

    def allow(self, session_id: UUID, seconds: float | None) -> None:
        """A session may go on for so long; None: without an end."""
        if runner := self._live.get(session_id):
            runner.handle(Allowed(seconds))

    def has(self, session_id: UUID) -> bool:
        """Whether a session, or the agent that was dialled for it, is here."""
        return session_id in self._live or session_id in self._ahead

    def count(self, room: Room) -> Counted:
        """What is attached here."""
        return quotas.count(self._attached.values(), room)

    def figures(self, session_id: UUID) -> Figures | None:
        """What a live session carried so far."""
        runner = self._live.get(session_id)
        return runner.figures if runner else None
