"""How a session closes: the code and the reason that each side gets. Pure."""

from __future__ import annotations

from relay.core.actions import End
from relay.core.events import EndReason
from relay.protocol import close_codes

# What a leaving client may say of itself, and the codes that are free for all (RFC 6455 sections
# 7.4.1 and 7.4.2). A frame may carry any other number up to 65535; none of those is passed on.
_CLIENTS_OWN = (close_codes.NORMAL, close_codes.GOING_AWAY)
_FREE = range(3000, 5000)
# A browser that closes with one of these, or with a code from 3000 up, does not come back: 1005 is
# `close()` without arguments. 1001 is a page that is left, or loaded again.
_GOODBYES = (close_codes.NORMAL, close_codes.NO_STATUS)

# What the other side is told when we hang up: close code, reason.
HANG_UP = {
    EndReason.HUNG_UP: (close_codes.NORMAL, "hung up"),
    # Not a code that asks to come again: two clients would take turns for ever.
    EndReason.SUPERSEDED: (close_codes.NORMAL, "continued elsewhere"),
    EndReason.MOVED: (close_codes.NORMAL, "continued elsewhere"),
    EndReason.SHUTDOWN: (close_codes.RESTART, "restarting"),
    EndReason.BROWSER_LOST: (close_codes.NORMAL, ""),  # before it was told anything
    EndReason.BROWSER_TOO_SLOW: (close_codes.POLICY, "not reading"),
    EndReason.BAD_SETTINGS: (close_codes.NORMAL, ""),  # of a Deepgram client, which got an Error
    EndReason.AGENT_TOO_SLOW: (close_codes.AGENT_UNREACHABLE, "agent not reading"),
    EndReason.AGENT_UNREACHABLE: (close_codes.AGENT_UNREACHABLE, "agent unreachable"),
    EndReason.AGENT_LOST: (close_codes.AGENT_UNREACHABLE, "agent lost"),
    EndReason.SETUP_TIMEOUT: (close_codes.AGENT_UNREACHABLE, "setup timeout"),
    EndReason.ABUSE: (close_codes.POLICY, "too many refusals"),
    # Not codes that ask to come again either: nobody was there.
    EndReason.IDLE: (close_codes.NORMAL, "idle"),
    EndReason.LONGEST: (close_codes.NORMAL, "maximum duration"),
    EndReason.INTERNAL_ERROR: (close_codes.INTERNAL, "internal error"),
}


def comes_back(code: int) -> bool:
    """Whether a browser that closed with this code may come back."""
    return code not in _GOODBYES and code < 3000


def close(why: EndReason, detail: str, code: int, reason: str) -> End:
    """Close both connections; `code` and `reason` go to the side that did not end it. The agent
    hears a browser's code only where it is one of a client's own: the rest is between us two."""
    is_its_own = why is EndReason.BROWSER_LEFT and (code in _CLIENTS_OWN or code in _FREE)
    short = close_codes.short(reason)
    return End(
        why.value,
        detail,
        browser=(close_codes.sendable(code, instead=close_codes.NORMAL), short),
        agent=(code, short) if is_its_own else (close_codes.NORMAL, ""),
    )
