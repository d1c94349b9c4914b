"""What the tests of the data plane share: an opening, Settings and a session on a fake clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from config.agent import Audio
from config.limits import Limits
from config.policy import Policy
from relay.core import actions
from relay.core.admitted import Admitted
from relay.core.events import AgentOpened, FromAgent
from relay.core.session import Session
from relay.core.user_context import UserContext
from relay.protocol import deepgram

BEGAN = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def admitted() -> Admitted:
    return Admitted(
        session_id=UUID(int=1),
        conversation_id=UUID(int=2),
        user_id="user",
        timezone="Europe/Vienna",
        audio=Audio(),
    )


@pytest.fixture
def settings() -> deepgram.Settings:
    return deepgram.Settings(audio={}, agent={"think": {"prompt": "secret prompt"}})


def numbered_ids() -> Callable[[], UUID]:
    count = 100

    def new_id() -> UUID:
        nonlocal count
        count += 1
        return UUID(int=count)

    return new_id


def numbered_tickets() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"ticket-{next(numbers)}"


LIMITS = Limits(
    setup_seconds=10.0,
    roll_over_seconds=1000.0,
    grace_seconds=30.0,
    audio_speed=0,  # most of the tests do not want to hear of a look at it every other second
    idle_seconds=0.0,
    session_seconds=0.0,
)


def make_session(
    admitted: Admitted,
    settings: deepgram.Settings,
    limits: Limits = LIMITS,
    now: float = 0.0,
    policy: Policy | None = None,
    *,
    asks: bool = False,
) -> Session:
    """A session that begins at `now`; it gives its agents `settings`, with the history as a tag,
    and if it `asks` with the names of the user's context."""

    def make_settings(
        history: Sequence[deepgram.History], context: UserContext
    ) -> deepgram.Settings:
        tags = context.names if asks else settings.tags
        return msgspec.structs.replace(settings, flags={"told": list(history)}, tags=tags)

    return Session(
        admitted,
        make_settings,
        now=now,
        began=BEGAN + timedelta(seconds=now),
        limits=limits,
        policy=policy or Policy(),
        new_id=numbered_ids(),
        jitter=lambda: 1.0,
        new_ticket=numbered_tickets(),
        asks=asks,
    )


@pytest.fixture
def session(admitted: Admitted, settings: deepgram.Settings) -> Session:
    return make_session(admitted, settings)


@pytest.fixture
def live(session: Session) -> Session:
    """A session whose Settings are applied at second 1."""
    session.handle(AgentOpened(), 0.5)
    session.handle(FromAgent(deepgram.Welcome(request_id="r")), 0.6)
    asked = session.handle(FromAgent(deepgram.SettingsApplied()), 1.0)
    assert actions.ReleaseHeld("r") in asked
    return session
