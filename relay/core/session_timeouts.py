"""When a session ends: idle, long, the minutes of the day used up, or because the relay stops; the
warning before. Pure."""

from __future__ import annotations

import math

from relay.protocol import relay_events

NOTICE_SECONDS = 30.0  # before the end


class SessionTimeouts:
    """Those of a session that begins at second `now`; 0 seconds: without end."""

    def __init__(self, idle_seconds: float, longest_seconds: float, now: float) -> None:
        self._seconds = {
            "idle": idle_seconds or math.inf,
            "longest": longest_seconds or math.inf,
            "daily_minutes": math.inf,
        }
        self._ends = {code: now + seconds for code, seconds in self._seconds.items()}
        self._warned: set[str] = set()
        self._dues = {code: self._due(code) for code in self._ends}
        self.go_by = math.inf  # the relay stops

    @property
    def deadline(self) -> float:
        """When the next of `warning` or `expired` is due, or `go_by`."""
        return min(self.go_by, *self._dues.values())

    def touch(self, now: float) -> None:
        """Somebody speaks."""
        self._ends["idle"] = now + self._seconds["idle"]
        self._warned.discard("idle")
        self._dues["idle"] = self._due("idle")

    def allow(self, seconds: float | None, now: float) -> None:
        """The minutes of the day will do for so long; None: without end."""
        self._ends["daily_minutes"] = math.inf if seconds is None else now + seconds
        if seconds is None or seconds > NOTICE_SECONDS:
            self._warned.discard("daily_minutes")
        self._dues["daily_minutes"] = self._due("daily_minutes")

    def expired(self, now: float) -> str | None:
        """Why the session is over by now."""
        return next((code for code, at in self._ends.items() if now >= at), None)

    def warning(self, now: float) -> relay_events.RelayNotice | None:
        """What the browser has to be told before; once each."""
        for code, at in self._ends.items():
            if code not in self._warned and now >= self._warn_at(code):
                self._warned.add(code)
                self._dues[code] = at
                return relay_events.RelayNotice(code=code, ends_in=round(at - now, 1))
        return None

    def _due(self, code: str) -> float:
        """When there is something to do next: the warning, then the end."""
        return self._ends[code] if code in self._warned else self._warn_at(code)

    def _warn_at(self, code: str) -> float:
        end = self._ends[code]
        return end - min(NOTICE_SECONDS, self._seconds[code] / 2)
