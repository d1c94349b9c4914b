"""Composes the program: the one place where everything is built and handed to whom it concerns."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ControllerRouterHandler, Scope
from uuid_utils.compat import uuid7

from config.current import Current
from config.env_types import Secret
from config.loader import Configuration
from config.settings import Settings
from config.version import VERSION
from control.admin.access import Administrators
from control.admin.erasure import Erasure, Leftovers
from control.admin.routes import list_admin_routes
from control.api import choices, conversations, grants, intents, sessions, web_client
from control.api.health import Readiness, get_live, get_ready
from control.api.metrics import Access, get_metrics
from control.api.problems import answer_error
from control.api.request_limits import RequestLimits
from control.api.request_log import RequestLogMiddleware
from control.api.request_target import RequestTargetMiddleware
from control.api.security import (
    MAX_BODY_BYTES,
    add_headers,
    allowed_origins,
    make_check,
    make_cors,
)
from control.auth.current_user import get_current_user
from control.auth.jwks import Jwks
from control.auth.jwt import Bearer
from control.cluster.capacity import Capacity
from control.cluster.heartbeat import Heartbeat
from control.db import retention
from control.db.store import Store
from control.http.client import Remote
from control.http.connection_limits import ConnectionLimits
from control.http.sibling_sessions import SiblingSessions
from control.http.siblings import Siblings
from control.outbox.context_source import ContextSource
from control.outbox.events import EventWorker
from control.outbox.orchestrator_client import Orchestrator, connect
from control.outbox.worker import OutboxWorker
from control.sessions import recordings
from control.sessions.admission import Admission
from control.sessions.direct import Direct
from control.sessions.meter import Meter
from control.sessions.recordings import make_recorder
from control.traces.exporter import open_traces
from relay.functions.executor import COUNTED, Functions
from relay.functions.submission import Submit
from relay.journal.journal import Journal
from relay.live.endpoints import attach, converse
from relay.live.quotas import AgentQuota
from relay.live.session_registry import SessionRegistry
from relay.protocol.refusal import Refused
from relay.recorder.recorder import Recorder
from relay.supervisor import Supervisor
from relay.telemetry.loop_lag import watching
from relay.telemetry.metrics import Metrics
from relay.transport.dial import Dial, Dialler
from relay.transport.egress import Egress
from relay.transport.fallback_dial import FallbackDial

if TYPE_CHECKING:  # of the extra `otel`
    from control.traces.traces import Traces

EVENT_MARGIN = 10.0  # seconds
GRACE_SECONDS = 5.0  # for running function calls, and again for the journal, when we stop
SETTLE_SECONDS = 5.0  # what a resumed session waits for the end of the one before


class Watchers(NamedTuple):
    """Who watches sessions, where anybody does."""

    recorder: Recorder | None
    traces: Traces | None

    def trace(self, submit: Submit) -> Submit:
        """The same, traced where there are traces."""
        return self.traces.trace_submit(submit) if self.traces else submit


class DataPlane:
    """What carries conversations, and what it needs. Handlers may ask for each by its name."""

    def __init__(self, settings: Settings, current: Current, siblings: Siblings | None) -> None:
        # A little longer than a session may be taken over, so that a takeover has come first.
        events = current.configuration.agent.events
        self.store = Store(
            settings.database_url.reveal(),
            event_grace=settings.grace_seconds + EVENT_MARGIN if events else None,
            size=settings.database_connections,
            statement_seconds=settings.database_statement_seconds,
            lock_seconds=settings.database_lock_seconds,
        )
        self.siblings = siblings
        self.metrics = Metrics(siblings.number if siblings else None)
        self.metrics.agent_price_dollars.set(settings.price_per_minute)
        self.supervisor = Supervisor(self.metrics)
        self.egress = Egress(settings)
        self.node_id = uuid7()  # of this start
        self.watchers = Watchers(
            make_recorder(settings, self.metrics),
            open_traces(
                settings.traces_exporter, self.node_id, with_content=settings.record_content
            ),
        )
        traces = self.watchers.traces
        self.journal = Journal(
            traces.trace_write(self.store.write) if traces else self.store.write,
            self.metrics,
            settings.data_dir / "journal",
            limit=settings.journal_bytes,
            supervisor=self.supervisor,
        )
        self.functions = Functions(self.journal, self.metrics, supervisor=self.supervisor)
        for intent in current.configuration.registry.intents:  # 0 before the first time
            for status in COUNTED:
                self.metrics.function_calls.labels(intent=intent.name, status=status)
        share = AgentQuota(settings.agent_sessions)
        self.capacity = Capacity(self.store, self.node_id, share, self.supervisor)
        question = current.configuration.agent.context
        self.context_source = (
            ContextSource(settings, question, self.egress, self.metrics) if question else None
        )
        self.session_registry = SessionRegistry(
            current,
            _limits_here(settings),
            dial=_find_way(settings, current, self.egress),
            functions=self.functions,
            journal=self.journal,
            metrics=self.metrics,
            share=share,
            grow=self.capacity.grow,
            ask=self.context_source.ask if self.context_source else None,
            supervisor=self.supervisor,
            watches=[each.watch for each in self.watchers if each],
            listen=self.watchers.recorder.listen if self.watchers.recorder else None,
        )


def _find_way(settings: Settings, current: Current, egress: Egress) -> Dial:
    """To the agent, or to the other one where there are two."""

    def reach(url: str) -> Dial:
        return Dialler(
            url,
            current.reveal_key,
            ping_seconds=settings.ping_seconds,
            seconds=settings.setup_seconds,
            max_message_bytes=settings.max_message_bytes,
            egress=egress,
        ).dial

    dial = reach(settings.deepgram_agent_url)
    if settings.deepgram_agent_fallback_url is None:
        return dial
    # Both, and the set-up after them, within the time of one.
    seconds = settings.setup_seconds / 3
    return FallbackDial(dial, reach(settings.deepgram_agent_fallback_url), seconds).dial


class ControlPlane:
    """What only handlers need: each may be asked for by its name, too."""

    def __init__(self, settings: Settings, current: Current, data_plane: DataPlane) -> None:
        store, self.live = data_plane.store, data_plane.session_registry
        settle = partial(self.live.make_room, seconds=SETTLE_SECONDS)
        self.settings = settings
        self.allowed_origins = allowed_origins(settings)
        self.jwks = (
            Jwks(
                Remote(data_plane.egress, settings.jwt_jwks_url),
                count=lambda outcome: data_plane.metrics.jwks_reads.labels(outcome=outcome).inc(),
            )
            if settings.jwt_jwks_url
            else None
        )
        self.readiness = Readiness(store)
        self.meter = Meter(store, self.live, settings, data_plane.supervisor)
        self.direct = Direct(
            _limits_here(settings),
            current,
            store,
            settle,
            data_plane.functions,
            data_plane.egress,
            self.meter,
            data_plane.context_source.ask if data_plane.context_source else None,
        )
        admission = Admission(
            store,
            settle,
            settings,
            lambda: current.configuration.agent.audio,
            self.live.expect,
            self.meter,
            node_id=data_plane.node_id,
        )
        self.admit, self.admit_grant = admission.admit, admission.admit_grant
        self.leftovers = Leftovers(
            store, data_plane.journal, settings.data_dir / "journal", data_plane.watchers.recorder
        )
        self.erasure = Erasure(store, self.leftovers, self.live, data_plane.node_id)
        self.sibling_sessions = SiblingSessions(
            data_plane.siblings,
            self.live,
            data_plane.supervisor,
            count=data_plane.metrics.handed_over.inc,
        )


def create_app(
    settings: Settings,
    configuration: Configuration,
    siblings: Siblings | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Litestar:
    """The whole program as an ASGI application; it opens what it needs when it starts.

    Its state has the `Current` that it looks at and its supervisor; with an address for operators,
    `operations` is what is served there, while this one is. `siblings`: the other workers, where
    there are several. `clock` is that of the limits of requests.
    """
    current = Current(configuration, settings.deepgram_api_key)
    data_plane = DataPlane(settings, current, siblings)
    control_plane = ControlPlane(settings, current, data_plane)
    parts = vars(data_plane) | vars(control_plane)
    parts["hand_over"] = control_plane.sibling_sessions.offer
    bearer = Bearer(settings, control_plane.jwks)
    limits = RequestLimits(settings, bearer.find_user, clock)
    handshakes = settings.handshakes, settings.handshake_seconds
    operations = _create_operations(settings, parts, bearer, limits)

    def count(code: str) -> None:
        data_plane.metrics.refusals.labels(code=code).inc()

    async def count_refusal(error: Exception, _: Scope) -> None:
        if isinstance(error, Refused):
            count(error.code)

    app = Litestar(
        _list_routes(settings),
        dependencies={
            **{name: _given(value) for name, value in parts.items()},
            **{name: _newest(current, name) for name in ("agent", "policy", "registry")},
            "request_limits": _given(limits),
            "check_address": _given(limits.check_address),
            "user": Provide(limits.find_user if settings.auth == "jwt" else get_current_user),
        },
        before_request=make_check(control_plane.allowed_origins, limits),
        after_exception=[count_refusal],
        before_send=[add_headers(settings)],
        cors_config=make_cors(settings),
        request_max_body_size=MAX_BODY_BYTES,
        state=State(
            {
                "connection_limits": ConnectionLimits(*handshakes, count),
                "operations": operations,
                "sibling_sessions": control_plane.sibling_sessions,
                "current": current,
                "supervisor": data_plane.supervisor,
            }
        ),
        exception_handlers={Exception: answer_error},
        lifespan=[lambda _: _running(settings, current, data_plane, control_plane)],
        openapi_config=_describe("Voice relay", "/schema"),
        logging_config=None,
    )
    return _guarded(app, settings, Access(settings, is_public=True))


def _create_operations(
    settings: Settings, parts: dict[str, object], bearer: Bearer, limits: RequestLimits
) -> Litestar | None:
    """What operators have on an address of their own, administrators too if there may be one; None:
    there is no such address."""
    if not settings.metrics_port:
        return None
    administrators = Administrators(settings, bearer)
    description = _describe("Voice relay, for administrators", "/admin/schema")
    app = Litestar(
        [get_metrics, *(list_admin_routes(administrators) if administrators.is_any else [])],
        dependencies={name: _given(value) for name, value in parts.items()},
        before_request=make_check(frozenset(), limits),
        before_send=[add_headers(settings)],
        request_max_body_size=MAX_BODY_BYTES,
        exception_handlers={Exception: answer_error},
        openapi_config=description if administrators.is_any else None,
        logging_config=None,
    )
    return _guarded(app, settings, Access(settings, is_public=False))


def _describe(title: str, path: str) -> OpenAPIConfig:
    return OpenAPIConfig(
        title=title,
        version=VERSION,
        description="Sessions and history of voice conversations.",
        path=path,
        # No page that loads its scripts from elsewhere: the description itself.
        render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
    )


def _guarded(app: Litestar, settings: Settings, access: Access) -> Litestar:
    """The application behind what looks at each request before the router does."""
    checked = RequestTargetMiddleware(app.asgi_handler, settings, access.check)
    app.asgi_handler = RequestLogMiddleware(checked, is_on=settings.access_log)
    return app


def _limits_here(settings: Settings) -> Settings:
    """The limits of a process as they hold with the other settings."""
    return msgspec.structs.replace(
        settings,
        # Without a sign-in everybody is the same user.
        sessions_per_user=settings.sessions_per_user if settings.auth == "jwt" else 0,
    )


def _make_heartbeat(
    settings: Settings, data_plane: DataPlane, control_plane: ControlPlane
) -> Heartbeat:
    return Heartbeat(
        data_plane.store,
        data_plane.session_registry,
        (settings.database_direct_url or settings.database_url).reveal(),
        grace=settings.grace_seconds,
        name=f"{socket.gethostname()}:{settings.port}",
        clear=control_plane.leftovers.clear,
        node_id=data_plane.node_id,
        supervisor=data_plane.supervisor,
    )


@asynccontextmanager
async def _running(
    settings: Settings,
    current: Current,
    data_plane: DataPlane,
    control_plane: ControlPlane,
) -> AsyncIterator[None]:
    """All that works beside the handlers, in the order in which it is needed."""
    store, metrics, supervisor = data_plane.store, data_plane.metrics, data_plane.supervisor
    journal, functions, watchers = data_plane.journal, data_plane.functions, data_plane.watchers
    heartbeat = _make_heartbeat(settings, data_plane, control_plane)

    await store.open()
    loop = asyncio.get_running_loop()
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
    metrics.database_up.set_function(lambda: store.is_up)
    metrics.database_waiting.set_function(lambda: store.waiting)
    metrics.database_connections.labels(state="busy").set_function(lambda: store.busy)
    metrics.database_connections.labels(state="idle").set_function(lambda: store.idle)
    try:
        async with (
            connect(
                settings.orchestrator_url,
                _revealed(settings.orchestrator_token),
                _revealed(settings.orchestrator_secret),
                egress=data_plane.egress,
            ) as orchestrator,
            heartbeat.running(),  # left last: by then its sessions have ended
            watchers.traces.running() if watchers.traces else nullcontext(),
            data_plane.capacity.running(),
            retention.running(store, settings.retention_days, supervisor, metrics),
            journal.running(grace=GRACE_SECONDS),
            functions.running(watchers.trace(orchestrator.submit), grace=GRACE_SECONDS),
            OutboxWorker(
                store,
                journal,
                lambda: current.configuration.registry,
                metrics,
                planner=orchestrator,
                listener=functions,
                max_age=settings.outbox_hours * 3600,
                supervisor=supervisor,
            ).running(grace=GRACE_SECONDS),
            _telling(settings, current, data_plane, orchestrator),
            data_plane.context_source.running() if data_plane.context_source else nullcontext(),
            data_plane.siblings.telling(metrics.text) if data_plane.siblings else nullcontext(),
            control_plane.meter.running(),
            data_plane.session_registry.running(),
            control_plane.sibling_sessions.running(),
            control_plane.jwks.running() if control_plane.jwks else nullcontext(),
            control_plane.direct.running(),
            recordings.keeping(watchers.recorder, store, supervisor),
        ):
            metrics.orchestrator_breaker.set_function(lambda: orchestrator.state.value)
            with watching(metrics.times["loop_lag"]):
                yield
    finally:
        await store.close()


def _telling(
    settings: Settings, current: Current, data_plane: DataPlane, planner: Orchestrator
) -> AbstractAsyncContextManager[None]:
    """While inside, the Orchestrator is told what agent.yaml says."""
    events = current.configuration.agent.events
    if events is None:
        return nullcontext()
    return EventWorker(
        data_plane.store,
        events,
        data_plane.metrics,
        planner=planner,
        public_url=settings.public_url or "",
        max_age=settings.outbox_hours * 3600,
        supervisor=data_plane.supervisor,
    ).running()


def _list_routes(settings: Settings) -> list[ControllerRouterHandler]:
    return [
        Router(
            sessions.PREFIX,
            route_handlers=[
                sessions.SessionController,
                conversations.ConversationController,
                conversations.DirectController,
                intents.list_intents,
                choices.list_choices,
            ],
        ),
        grants.grant_ticket,
        attach,
        converse,
        *([web_client.make_handler()] if settings.client else []),
        get_live,
        get_ready,
        get_metrics,
    ]


def _revealed(secret: Secret | None) -> str | None:
    return secret.reveal() if secret else None


def _given(value: object) -> Provide:
    return Provide(lambda: value, sync_to_thread=False)


def _newest(current: Current, part: str) -> Provide:
    """This part of the configuration, as it is when a request comes."""
    return Provide(lambda: getattr(current.configuration, part), sync_to_thread=False)
