"""The recordings of this node's sessions: begun as the settings say, gone with their conversation.

Which conversations are erased only the database knows, whoever erased them, at whichever node: so
it is asked, every minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from config.agent import Audio
from config.errors import ConfigError
from config.settings import Settings
from control.db import people
from control.db.store import Store, StoreUnavailable
from relay.recorder.audio_recorder import AudioRecorder, can_record
from relay.recorder.recorder import Bounds, Recorder
from relay.supervisor import Supervisor
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0


def make_recorder(settings: Settings, metrics: Metrics) -> Recorder | None:
    """None: nothing is recorded. Raises `ConfigError` if the directory cannot be made."""
    if settings.record_dir is None:
        return None
    try:
        settings.record_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        place = "environment: RELAY_RECORD_DIR"
        raise ConfigError([f"{place}: expected a directory to write to, got {error}"]) from error
    bounds = Bounds(
        session_bytes=settings.record_session_bytes,
        total_bytes=settings.record_bytes,
        days=settings.record_days,
    )
    audio = None
    if settings.record_audio:
        audio = AudioRecorder(settings.record_dir, settings.record_audio_bytes, metrics)
    return Recorder(
        settings.record_dir, bounds, metrics, keeps_content=settings.record_content, audio=audio
    )


def may_record(settings: Settings, audio: Audio) -> bool:
    """Whether the audio of such a session is recorded if its user wants that."""
    return settings.record_audio and can_record(audio)


@asynccontextmanager
async def keeping(
    recorder: Recorder | None, store: Store, supervisor: Supervisor
) -> AsyncIterator[None]:
    """While inside, sessions are recorded, and recordings of conversations that are gone are
    removed."""
    if recorder is None:
        yield
        return
    with recorder.running():
        async with supervisor.repeating(
            "recordings",
            lambda: erase_gone(recorder, store),
            pause=LOOK_SECONDS,
            foreseen=(StoreUnavailable,),
            say=lambda error: log.warning("recordings_not_looked_at reason=%s", error),
        ):
            yield


async def erase_gone(recorder: Recorder, store: Store) -> int:
    """Remove what is of conversations that are gone; how many they were. Raises
    `StoreUnavailable`."""
    kept = await asyncio.to_thread(recorder.list_conversations)
    if not kept:
        return 0
    async with store.reading() as connection:
        gone = await people.find_gone(connection, kept, ())
    count = await asyncio.to_thread(recorder.erase, gone)
    if count:
        log.info("recordings_erased conversations=%d", count)
    return count
