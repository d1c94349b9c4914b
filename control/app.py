"""Composes the program: the one place where everything is built and handed to whom it concerns."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import msgspec
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ControllerRouterHandler
from uuid_utils.compat import uuid7

from config.env_types import Secret
from config.limits import Limits
from config.loader import Configuration
from config.settings import Settings
from control.admin.access import Administrators
from control.admin.erasure import Erasure, Leftovers
from control.admin.routes import list_admin_routes
from control.api import conversations, grants, intents, sessions, web_client
from control.api.health import get_live, get_ready
from control.api.metrics import Access, get_metrics
from control.api.problems import answer_error
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
from control.http.siblings import Siblings
from control.outbox.context_source import ContextSource
from control.outbox.orchestrator_client import connect
from control.outbox.worker import OutboxWorker
from control.sessions.admission import Admission
from control.sessions.direct import Direct
from relay.functions.executor import Functions
from relay.journal.journal import Journal
from relay.live.endpoints import attach, converse
from relay.live.quotas import AgentQuota
from relay.live.session_registry import SessionRegistry
from relay.supervisor import Supervisor
from relay.telemetry.loop_lag import watching
from relay.telemetry.metrics import Metrics
from relay.transport.dial import Dial, Dialler
from relay.transport.egress import Egress
from relay.transport.fallback_dial import FallbackDial

GRACE_SECONDS = 5.0  # for running function calls, and again for the journal, when we stop
SETTLE_SECONDS = 5.0  # what a resumed session waits for the end of the one before


class DataPlane:
    """What carries conversations, and what it needs. Handlers may ask for each by its name."""

    def __init__(
        self, settings: Settings, configuration: Configuration, siblings: Siblings | None
    ) -> None:
        self.store = Store(settings.database_url.reveal())
        self.siblings = siblings
        self.metrics = Metrics(siblings.number if siblings else None)
        self.supervisor = Supervisor(self.metrics)
        self.egress = Egress(settings)
        self.journal = Journal(
            self.store.write,
            self.metrics,
            settings.data_dir / "journal",
            limit=settings.journal_bytes,
            supervisor=self.supervisor,
        )
        self.functions = Functions(
            configuration.registry, self.journal, self.metrics, supervisor=self.supervisor
        )
        share = AgentQuota(settings.agent_sessions)
        self.node_id = uuid7()  # of this start
        self.capacity = Capacity(self.store, self.node_id, share, self.supervisor)
        question = configuration.agent.context
        self.context_source = (
            ContextSource(settings, question, self.egress, self.metrics) if question else None
        )
        self.session_registry = SessionRegistry(
            configuration,
            _limits_here(settings),
            dial=_find_way(settings, self.egress),
            functions=self.functions,
            journal=self.journal,
            metrics=self.metrics,
            share=share,
            grow=self.capacity.grow,
            ask=self.context_source.ask if self.context_source else None,
            supervisor=self.supervisor,
        )


def _find_way(settings: Settings, egress: Egress) -> Dial:
    """To the agent, or to the other one where there are two."""

    def reach(url: str) -> Dial:
        return Dialler(
            url,
            settings.deepgram_api_key.reveal(),
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

    def __init__(
        self, settings: Settings, configuration: Configuration, data_plane: DataPlane
    ) -> None:
        store, self.live = data_plane.store, data_plane.session_registry
        settle = partial(self.live.make_room, seconds=SETTLE_SECONDS)
        self.settings = settings
        self.agent = configuration.agent
        self.policy = configuration.policy
        self.registry = configuration.registry
        self.allowed_origins = allowed_origins(settings)
        self.jwks = (
            Jwks(
                Remote(data_plane.egress, settings.jwt_jwks_url),
                count=lambda outcome: data_plane.metrics.jwks_reads.labels(outcome=outcome).inc(),
            )
            if settings.jwt_jwks_url
            else None
        )
        self.direct = Direct(
            settings,
            configuration,
            store,
            settle,
            data_plane.functions,
            data_plane.egress,
            data_plane.context_source.ask if data_plane.context_source else None,
        )
        admission = Admission(
            store,
            settle,
            settings,
            self.agent.audio,
            self.live.expect,
            node_id=data_plane.node_id,
        )
        self.admit, self.admit_grant = admission.admit, admission.admit_grant
        self.leftovers = Leftovers(store, data_plane.journal, settings.data_dir / "journal")
        self.erasure = Erasure(store, self.leftovers, self.live, data_plane.node_id)


def create_app(
    settings: Settings, configuration: Configuration, siblings: Siblings | None = None
) -> Litestar:
    """The whole program as an ASGI application; it opens what it needs when it starts.

    With an address for operators, its `state["operations"]` is what is served there, while this one
    is. `siblings`: the other workers, where there are several.
    """
    data_plane = DataPlane(settings, configuration, siblings)
    control_plane = ControlPlane(settings, configuration, data_plane)
    parts = vars(data_plane) | vars(control_plane)
    bearer = Bearer(settings, control_plane.jwks)
    find_user = bearer.find_user if settings.auth == "jwt" else get_current_user
    administrators = Administrators(settings, bearer)
    operations = (
        _create_operations(settings, parts, administrators) if settings.metrics_port else None
    )
    connection_limits = ConnectionLimits(
        settings.handshakes,
        settings.handshake_seconds,
        lambda code: data_plane.metrics.refusals.labels(code=code).inc(),
    )

    app = Litestar(
        _list_routes(settings),
        dependencies={
            **{name: _given(value) for name, value in parts.items()},
            "user": Provide(find_user),
        },
        before_request=make_check(control_plane.allowed_origins),
        before_send=[add_headers(settings)],
        cors_config=make_cors(settings),
        request_max_body_size=MAX_BODY_BYTES,
        state=State({"connection_limits": connection_limits, "operations": operations}),
        exception_handlers={Exception: answer_error},
        lifespan=[lambda _: _running(settings, configuration, data_plane, control_plane)],
        openapi_config=OpenAPIConfig(
            title="Voice relay",
            version="0.1.0",
            description="Sessions and history of voice conversations.",
            path="/schema",
            # No page that loads its scripts from elsewhere: the description itself.
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        ),
        logging_config=None,
    )
    return _guarded(app, settings, Access(settings, is_public=True))


def _create_operations(
    settings: Settings, parts: dict[str, object], administrators: Administrators
) -> Litestar:
    """What operators have on an address of their own, administrators too if there may be one."""
    description = OpenAPIConfig(
        title="Voice relay, for administrators",
        version="0.1.0",
        path="/admin/schema",
        render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
    )
    app = Litestar(
        [get_metrics, *(list_admin_routes(administrators) if administrators.is_any else [])],
        dependencies={name: _given(value) for name, value in parts.items()},
        before_request=make_check(frozenset()),
        before_send=[add_headers(settings)],
        request_max_body_size=MAX_BODY_BYTES,
        exception_handlers={Exception: answer_error},
        openapi_config=description if administrators.is_any else None,
        logging_config=None,
    )
    return _guarded(app, settings, Access(settings, is_public=False))


def _guarded(app: Litestar, settings: Settings, access: Access) -> Litestar:
    """The application behind what looks at each request before the router does."""
    checked = RequestTargetMiddleware(app.asgi_handler, settings, access.check)
    app.asgi_handler = RequestLogMiddleware(checked, is_on=settings.access_log)
    return app


def _limits_here(settings: Settings) -> Limits:
    """The limits of a process as they hold with the other settings."""
    return msgspec.structs.replace(
        settings,
        # Without a sign-in everybody is the same user.
        sessions_per_user=settings.sessions_per_user if settings.auth == "jwt" else 0,
        # The browser may reach another worker than the one that made its session.
        dial_ahead=settings.dial_ahead if settings.workers == 1 else 0,
    )


def _make_heartbeat(
    settings: Settings, data_plane: DataPlane, control_plane: ControlPlane
) -> Heartbeat:
    return Heartbeat(
        data_plane.store,
        data_plane.session_registry,
        settings.database_url.reveal(),
        grace=settings.grace_seconds,
        name=f"{socket.gethostname()}:{settings.port}",
        clear=control_plane.leftovers.clear,
        node_id=data_plane.node_id,
        supervisor=data_plane.supervisor,
    )


@asynccontextmanager
async def _running(
    settings: Settings,
    configuration: Configuration,
    data_plane: DataPlane,
    control_plane: ControlPlane,
) -> AsyncIterator[None]:
    """All that works beside the handlers, in the order in which it is needed."""
    store, metrics, supervisor = data_plane.store, data_plane.metrics, data_plane.supervisor
    journal, functions = data_plane.journal, data_plane.functions
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
            data_plane.capacity.running(),
            retention.running(store, settings.retention_days, supervisor, metrics),
            journal.running(grace=GRACE_SECONDS),
            functions.running(orchestrator.submit, grace=GRACE_SECONDS),
            OutboxWorker(
                store,
                journal,
                configuration.registry,
                metrics,
                planner=orchestrator,
                listener=functions,
                max_age=settings.outbox_hours * 3600,
                supervisor=supervisor,
            ).running(grace=GRACE_SECONDS),
            data_plane.context_source.running() if data_plane.context_source else nullcontext(),
            data_plane.siblings.telling(metrics.text) if data_plane.siblings else nullcontext(),
            data_plane.session_registry.running(),
            control_plane.jwks.running() if control_plane.jwks else nullcontext(),
            control_plane.direct.running(),
        ):
            metrics.orchestrator_breaker.set_function(lambda: orchestrator.state.value)
            with watching(metrics.times["loop_lag"]):
                yield
    finally:
        await store.close()


def _list_routes(settings: Settings) -> list[ControllerRouterHandler]:
    return [
        Router(
            sessions.PREFIX,
            route_handlers=[
                sessions.SessionController,
                conversations.ConversationController,
                conversations.DirectController,
                intents.list_intents,
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
