"""Whether a lost agent is dialled again, and when. Pure.

There is no session resumption at Deepgram: a new socket is a new session, which is told the
history. What a second try cannot mend is not tried: wrong Settings, a wrong key, no credit.
"""

from __future__ import annotations

from relay.protocol import close_codes

MAX_TRIES = 5  # in an outage
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


def is_lost(code: int) -> bool:
    """Whether an agent that closes with this has not finished the conversation.

    1000 and the codes from 3000 up were chosen by somebody, and are passed on. 1002, 1003 and 1007
    to 1009 blame what the agent got: that was from us, and no browser is told that it did it.
    """
    return code != close_codes.NORMAL and code < 3000


def pause(tries: int, jitter: float, at_least: float) -> float | None:
    """Seconds until the next try after so many in this outage; None: those were enough.

    `jitter` is from 0 to 1. `at_least` is what the agent asked for, and counts up to
    LONGEST_RETRY_AFTER.
    """
    if tries >= MAX_TRIES:
        return None
    wait = min(FIRST_WAIT * 2.0**tries, LONGEST_WAIT) * (0.5 + 0.5 * jitter)
    if not at_least:
        return wait
    return max(wait, min(at_least, LONGEST_RETRY_AFTER) + FIRST_WAIT * jitter)
