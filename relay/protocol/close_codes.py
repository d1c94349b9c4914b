"""WebSocket close codes, and what may stand in a close frame. Pure."""

from __future__ import annotations

# Registered WebSocket close codes (RFC 6455 section 7.4 and its IANA registry).
NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
POLICY = 1008
TOO_BIG = 1009
INTERNAL = 1011
RESTART = 1012
TRY_AGAIN = 1013
AGENT_UNREACHABLE = 1014
# These two describe what was seen and may not be put in a close frame (RFC 6455 section 7.4.1).
NO_STATUS = 1005
ABNORMAL = 1006

_REGISTERED = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}
KNOWN = _REGISTERED | {NO_STATUS, ABNORMAL, 1015}
_REASON_BYTES = 123  # what a control frame has left after the code


def sendable(code: int, *, instead: int) -> int:
    """`code` if it may stand in a close frame, else `instead`."""
    return code if code in _REGISTERED or 3000 <= code <= 4999 else instead


def short(reason: str) -> str:
    """`reason`, cut to what fits into a close frame without splitting a character."""
    return reason.encode()[:_REASON_BYTES].decode(errors="ignore")
