"""How a session closes: the code and the reason that each side gets. Pure."""

from __future__ import annotations

from relay.core import actions
from relay.core.actions import Action
from relay.core.events import EndReason
from relay.protocol import relay_events

# What a leaving client may say of itself, and the codes that are free for all (RFC 6455 sections
# 7.4.1 and 7.4.2). A frame may carry any other number up to 65535; none of those is passed on.
_CLIENTS_OWN = (relay_events.NORMAL, relay_events.GOING_AWAY)
_FREE = range(3000, 5000)
# A browser that closes with one of these, or with a code from 3000 up, does not come back: 1005 is
# `close()` without arguments. 1001 is a page that is left, or loaded again.
_GOODBYES = (relay_events.NORMAL, relay_events.NO_STATUS)

# What the other side is told when we hang up: close code, reason.
HANG_UP = {
    EndReason.HUNG_UP: (relay_events.NORMAL, "hung up"),
    # Not a code that asks to come again: two clients would take turns for ever.
    EndReason.SUPERSEDED: (relay_events.NORMAL, "continued elsewhere"),
    EndReason.MOVED: (relay_events.NORMAL, "continued elsewhere"),
    EndReason.SHUTDOWN: (relay_events.RESTART, "restarting"),
    EndReason.BROWSER_LOST: (relay_events.NORMAL, ""),  # before it was told anything
    EndReason.BROWSER_TOO_SLOW: (relay_events.POLICY, "not reading"),
    EndReason.BAD_SETTINGS: (relay_events.NORMAL, ""),  # of a Deepgram client, which got an Error
    EndReason.AGENT_TOO_SLOW: (relay_events.AGENT_UNREACHABLE, "agent not reading"),
    EndReason.ABUSE: (relay_events.POLICY, "too many refusals"),
    # Not codes that ask to come again either: nobody was there.
    EndReason.IDLE: (relay_events.NORMAL, "idle"),
    EndReason.LONGEST: (relay_events.NORMAL, "maximum duration"),
    EndReason.INTERNAL_ERROR: (relay_events.INTERNAL, "internal error"),
}


def comes_back(code: int) -> bool:
    """Whether a browser that closed with this code may come back."""
    return code not in _GOODBYES and code < 3000


def close(why: EndReason, detail: str, code: int, reason: str) -> list[Action]:
    """Close both connections; `code` and `reason` go to the side that did not end it. The agent
    hears a browser's code only where it is one of a client's own: the rest is between us two."""
    own = code in _CLIENTS_OWN or code in _FREE
    left = why is EndReason.BROWSER_LEFT and own
    return [
        actions.CloseBrowser(
            relay_events.sendable(code, instead=relay_events.NORMAL), relay_events.short(reason)
        ),
        actions.CloseAgent(
            code if left else relay_events.NORMAL, relay_events.short(reason) if left else ""
        ),
        actions.End(why.value, detail),
    ]
