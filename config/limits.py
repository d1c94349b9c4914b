"""How much, how long and how many: the settings that rules and queues are built with.

One field here is all that a new limit takes, beside the code that keeps to it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from config import env_types

Bytes = Annotated[int, env_types.whole(1024, 1 << 30)]
Count = Annotated[int, env_types.whole(0, 1_000_000)]
Seconds = Annotated[float, env_types.positive("seconds")]
SecondsOrNone = Annotated[float, env_types.positive_or_none("seconds")]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of each its type, the reader of its environment variable, its meaning and its default.

    A reader turns the text of the variable into the value, or raises
    `ValueError("expected ..., got ...")`.
    """

    ticket_seconds: Annotated[Seconds, "how long a ticket may be used"] = 60.0
    setup_seconds: Annotated[
        Seconds, "how long the agent may take from the dial to `SettingsApplied`"
    ] = 10.0
    roll_over_seconds: Annotated[
        Seconds,
        "when a new agent takes over, between two turns: Deepgram ends a session after 7200",
    ] = 6600.0
    grace_seconds: Annotated[
        SecondsOrNone,
        "how long a session waits for a browser whose connection broke; 0: it ends at once",
    ] = 30.0
    ping_seconds: Annotated[
        Seconds,
        "both sides are pinged after this long without a frame, and given up after as long again",
    ] = 10.0
    max_message_bytes: Annotated[Bytes, "the longest message that is accepted"] = 1 << 20
    browser_message_bytes: Annotated[
        Bytes, "the longest message of a browser that is accepted, audio included"
    ] = 256 << 10
    held_audio_bytes: Annotated[
        Bytes,
        "what may be queued towards the agent: until it has taken its Settings, while it is "
        "dialled again, and later while it does not read",
    ] = 256 << 10
    lane_bytes: Annotated[
        Bytes, "what may be queued towards the browser while it does not read"
    ] = 768 << 10
    lane_seconds: Annotated[
        Seconds,
        "how much speech may be queued towards the browser; older audio is dropped first",
    ] = 15.0
    dial_ahead: Annotated[
        int,
        env_types.whole(0, 10_000),
        "agents dialled at once before their browser attaches; `0` turns it off. It is off with "
        "several workers; turn it off with several relays",
    ] = 32
    messages_per_second: Annotated[
        float,
        env_types.positive("a number"),
        "text messages of a browser; twice as many may come at once",
    ] = 20.0
    audio_speed: Annotated[
        float,
        env_types.positive_or_none("a number"),
        "how many times faster than real time a browser's audio may come; 0: as fast as it likes",
    ] = 2.0
    audio_burst_seconds: Annotated[
        Seconds, "seconds of audio that may come at once, at the beginning and after a pause"
    ] = 20.0
    idle_seconds: Annotated[
        SecondsOrNone, "a session ends when nobody has spoken for so long; 0: never"
    ] = 600.0
    session_seconds: Annotated[SecondsOrNone, "how long a session may last; 0: without end"] = (
        14400.0
    )
    sessions: Annotated[Count, "live sessions of a process; 0: no limit"] = 1000
    sessions_per_user: Annotated[
        Count, "live sessions of one user in a process; 0: no limit. The mocked user has none"
    ] = 10
    sessions_per_address: Annotated[
        Count, "live sessions from one address (IPv6: one /64) in a process; 0: no limit"
    ] = 50
    agent_sessions: Annotated[
        Count,
        "agents that all relays on one database may have at once: what your plan allows, such "
        "as 45; 0: no limit",
    ] = 0
    handshakes: Annotated[
        int, env_types.whole(1, 1_000_000), "connections of a process that have not been let in yet"
    ] = 1000
    handshake_seconds: Annotated[Seconds, "how long a client may take to send a request"] = 10.0
    journal_bytes: Annotated[
        int,
        env_types.whole(1 << 20, 1 << 40),
        "what the journal may take on disk, all workers together",
    ] = 256 << 20
    outbox_hours: Annotated[
        float,
        env_types.positive("hours"),
        "how long an accepted call is tried until it has failed for good",
    ] = 24.0
    retention_days: Annotated[
        float,
        env_types.positive_or_none("days"),
        "conversations that were not touched for so long and have no session are erased; 0: never",
    ] = 0.0
