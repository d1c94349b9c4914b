"""The stop-watch of one session: what took how long, for it and for the whole process."""

from __future__ import annotations

from relay.telemetry.histogram import Histogram, SessionLatency
from relay.telemetry.metrics import Metrics


class SessionTiming:
    """Told by the session runner what happens at which second of the event loop's clock."""

    def __init__(self, metrics: Metrics) -> None:
        self._own = {name: Histogram() for name in ("up", "down", "reply", "agent_total")}
        self.up, self.down = self._own["up"], self._own["down"]
        self._times = metrics.times
        # Of what is being waited for: the socket, then SettingsApplied. None: nothing is.
        self._since: float | None = None
        self._waits: dict[str, float] = {}  # the newest of each, in milliseconds
        self._asked: float | None = None
        self._is_unheard = False  # a reply went to the browser, which has not said when it played

    @property
    def latency(self) -> SessionLatency:
        """So far."""
        return SessionLatency(
            connect_ms=self._waits.get("agent_connect"),
            settings_ms=self._waits.get("agent_settings"),
            **{name: histogram.percentiles() for name, histogram in self._own.items()},
        )

    def dialled(self, now: float) -> None:
        """An agent is wanted: comes first, for each of them."""
        self._since = now

    def opened(self, now: float) -> None:
        """Its socket is open: how long the session waited for that (dialled ahead: about 0). Not
        measured where it was open before the session wanted one."""
        self._came("agent_connect", now)
        self._since = now if "agent_connect" in self._waits else None

    def welcomed(self, now: float) -> None:
        """It has said Welcome."""
        self._came("agent_welcome", now)

    def settings_sent(self, now: float) -> None:
        self._since = now

    def applied(self, now: float) -> None:
        self._came("agent_settings", now)

    def _came(self, name: str, now: float) -> None:
        if self._since is not None:
            self._times[name].record(now - self._since)
            self._waits[name] = round((now - self._since) * 1000, 3)
            self._since = None

    def asked(self, now: float) -> None:
        """The user's words came as text."""
        self._asked = now

    def replied(self, now: float) -> None:
        """The first agent audio after them went to the browser."""
        if self._asked is not None:
            self._record("reply", now - self._asked)
            self._asked = None
            self._is_unheard = True

    def played_out(self, seconds: float) -> None:
        """The browser says how long its first audio took to be heard: counted once a reply."""
        if self._is_unheard:
            self._times["playout"].record(seconds)
            self._is_unheard = False

    def reported(self, seconds: float) -> None:
        self._record("agent_total", seconds)

    def reported_part(self, name: str, seconds: float | None) -> None:
        """The agent reported a part of a turn: `name` is that of the histogram."""
        if seconds is not None:
            self._times[name].record(seconds)

    def _record(self, name: str, seconds: float) -> None:
        self._own[name].record(seconds)
        self._times[name].record(seconds)

    def end(self) -> None:
        """The session is over: what it measured per frame goes into the figures of the process."""
        self._times["up"].merge(self.up)
        self._times["down"].merge(self.down)
