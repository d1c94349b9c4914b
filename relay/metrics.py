"""What operators may count: names and labels are documented in docs/architecture.md."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    """The figures of one relay process; one instance, given to whoever counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions_live = Gauge(
            "relay_sessions_live", "Sessions with an open browser leg", registry=self.registry
        )
        self.sessions_ended = Counter(
            "relay_sessions_ended", "Sessions by why they ended", ["reason"], registry=self.registry
        )
        self.frames = Counter(
            "relay_frames", "Audio frames of ended sessions", ["source"], registry=self.registry
        )
        self.dropped = Counter(
            "relay_audio_dropped",
            "Audio frames thrown away: held too long or a side does not read",
            ["towards"],
            registry=self.registry,
        )
        self.notes = Counter(
            "relay_notes", "Unexpected things an agent said", ["what"], registry=self.registry
        )
        self.calls = Counter(
            "relay_function_calls", "Function calls by outcome", ["status"], registry=self.registry
        )
        self.journal_waiting = Gauge(
            "relay_journal_waiting", "Records not in Postgres yet", registry=self.registry
        )
        self.journal_lost = Counter(
            "relay_journal_lost", "Records thrown away: journal full", registry=self.registry
        )

    def text(self) -> bytes:
        """The figures in Prometheus' text format."""
        return generate_latest(self.registry)
