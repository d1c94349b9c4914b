"""How much, how long and how many: the settings that rules and queues are built with.

One field here is all that a new limit takes, beside the code that keeps to it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Bytes = Annotated[int, Meta(ge=1024, le=1 << 30)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Positive = Annotated[float, Meta(gt=0)]
OrNone = Annotated[float, Meta(ge=0)]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Each with its meaning, of which docs/reference/settings.md is made."""

    ticket_seconds: Positive = 60.0
    """how long a ticket may be used"""
    setup_seconds: Positive = 10.0
    """how long the agent may take from the dial to `SettingsApplied`"""
    roll_over_seconds: Positive = 6600.0
    """when a new agent takes over, between two turns: Deepgram ends a session after 7200"""
    grace_seconds: OrNone = 30.0
    """how long a session waits for a browser whose connection broke; 0: it ends at once"""
    ping_seconds: Positive = 10.0
    """both sides are pinged after this long without a frame, and given up after as long again"""
    max_message_bytes: Bytes = 1 << 20
    """the longest message that is accepted"""
    browser_message_bytes: Bytes = 256 << 10
    """the longest message of a browser that is accepted, audio included"""
    held_audio_bytes: Bytes = 256 << 10
    """what may be queued towards the agent: until it has taken its Settings, while it is
    dialled again, and later while it does not read"""
    lane_bytes: Bytes = 768 << 10
    """what may be queued towards the browser while it does not read"""
    lane_seconds: Positive = 15.0
    """how much speech may be queued towards the browser; older audio is dropped first"""
    dial_ahead: Annotated[int, Meta(ge=0, le=10000)] = 32
    """agents dialled at once before their browser attaches; `0` turns it off. Before several relays
    the balancer has to lead the browser back: deploy.md"""
    messages_per_second: Positive = 20.0
    """text messages of a browser; twice as many may come at once"""
    audio_speed: OrNone = 2.0
    """how many times faster than real time a browser's audio may come; 0: as fast as it likes"""
    audio_burst_seconds: Positive = 20.0
    """seconds of audio that may come at once, at the beginning and after a pause"""
    idle_seconds: OrNone = 600.0
    """a session ends when nobody has spoken for so long; 0: never"""
    session_seconds: OrNone = 14400.0
    """how long a session may last; 0: without end"""
    daily_minutes_per_user: OrNone = 0.0
    """for how many minutes agents of one user may be connected on one day (UTC), all relays
    together; then sessions end, and none begins; 0: no limit"""
    daily_minutes: OrNone = 0.0
    """the same for all users together"""
    sessions: Count = 1000
    """live sessions of a process (of each worker); direct sessions of all processes; 0: no limit"""
    sessions_per_user: Count = 10
    """live sessions of one user at a relay, all workers together; direct sessions of one user in
    all; 0: no limit. The mocked user has none"""
    sessions_per_address: Count = 50
    """live sessions from one address (IPv6: one /64) at a relay, all workers together; 0: no
    limit"""
    requests_per_user: OrNone = 10.0
    """requests of one user a second, to a process; thirty times as many may come at once. 0: no
    limit. The mocked user has none"""
    requests_per_address: OrNone = 100.0
    """the same from one address (IPv6: one /64), attaches included"""
    direct_reports_per_minute: OrNone = 120.0
    """messages, and function calls as well, that may be reported of one direct session a minute, to
    a process; as many may come at once. 0: no limit"""
    agent_sessions: Count = 0
    """agents that all relays on one database may have at once: what your plan allows, such as
    45; 0: no limit"""
    handshakes: Annotated[int, Meta(ge=1, le=1000000)] = 1000
    """connections of a process that have not been let in yet"""
    handshake_seconds: Positive = 10.0
    """how long a client may take to send a request"""
    database_connections: Annotated[int, Meta(ge=1, le=1000)] = 10
    """connections to Postgres of one process, besides the one that listens"""
    database_statement_seconds: Positive = 10.0
    """the longest that one statement may take"""
    database_lock_seconds: Positive = 8.0
    """the longest that one waits for a lock; a process that froze keeps its own for 5 s"""
    journal_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 40)] = 256 << 20
    """what the journal may take on disk, all workers together"""
    record_session_bytes: Bytes = 4 << 20
    """what the recording of one session may take on disk; then it is cut"""
    record_audio_bytes: Annotated[int, Meta(ge=1 << 20, le=4 << 30)] = 256 << 20
    """what the audio of one session may take there, both sides together; the rest is not recorded:
    an hour of linear16 is 115 MB at 16 kHz and 173 MB at 24 kHz"""
    record_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 44)] = 1 << 30
    """what all recordings may take, audio included, all workers together; the oldest go first"""
    record_days: OrNone = 7.0
    """how long a recording is kept; 0: until its conversation is erased"""
    outbox_hours: Positive = 24.0
    """how long an accepted call is tried until it has failed for good"""
    retention_days: OrNone = 0.0
    """conversations that were not touched for so long and have no session are erased; 0: never"""
