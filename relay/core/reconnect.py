"""Whether a lost agent is dialled again, and when. Pure.

There is no session resumption at Deepgram: a new socket is a new session, which is told the
history. What a second try cannot mend is not tried: wrong Settings, a wrong key, no credit.
"""

from __future__ import annotations

import msgspec

from relay.protocol import close_codes

MAX_TRIES = 5
FIRST_WAIT = 0.25
LONGEST_WAIT = 4.0
LONGEST_RETRY_AFTER = 10.0  # somebody waits for the answer, with a microphone in the hand
# An agent that was ready for so long has ended the outage before it.
STABLE_SECONDS = 30.0

# Refusals that stay the same however often one asks.
FINAL_STATUSES = {400, 401, 402, 403, 404, 405}
FINAL_ERRORS = {
    "AGENT_ID_NOT_SUPPORTED",
    "INVALID_AGENT_ID",
    "INVALID_SETTINGS",
    "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS",
    "SETTINGS_ALREADY_APPLIED",
    "UNPARSABLE_CLIENT_MESSAGE",
    "USER_AUDIO_FORMAT",
}
# An agent that closes with one of these has not finished the conversation. 1000 and the codes from
# 3000 up were chosen by somebody, and are passed on.
LOST_CODES = {
    close_codes.GOING_AWAY,
    close_codes.NO_STATUS,
    close_codes.ABNORMAL,
    close_codes.INTERNAL,
    close_codes.RESTART,
    close_codes.TRY_AGAIN,
    close_codes.AGENT_UNREACHABLE,
}


class ReconnectAttempts(msgspec.Struct):
    """How often the agent was dialled again in this outage.

    An outage begins when an agent is lost and is over when one has been ready for STABLE_SECONDS:
    an agent that gets ready and dies, again and again, is one outage.
    """

    count: int = 0
    ready_since: float | None = None  # monotonic second of SettingsApplied; None: no agent is ready
    was_ready: bool = False  # at any time

    def succeed(self, now: float) -> None:
        """An agent is ready."""
        self.ready_since = now
        self.was_ready = True

    def wait(self, now: float, jitter: float, *, at_least: float = 0.0) -> float | None:
        """The agent is lost: count another try; seconds until then, None when there were enough.

        `jitter` is from 0 to 1, so that the sessions of a relay do not come all at once; `at_least`
        is what the agent asked for, and counts up to LONGEST_RETRY_AFTER.
        """
        if self.ready_since is not None and now - self.ready_since >= STABLE_SECONDS:
            self.count = 0
        self.ready_since = None
        if self.count >= MAX_TRIES:
            return None
        longest: float = min(FIRST_WAIT * 2**self.count, LONGEST_WAIT)
        self.count += 1
        asked = min(at_least, LONGEST_RETRY_AFTER)
        return max(longest * (0.5 + 0.5 * jitter), asked + FIRST_WAIT * jitter if asked else 0.0)
