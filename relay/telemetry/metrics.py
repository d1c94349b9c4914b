"""What operators may count: names and labels are documented in docs/architecture.md."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from relay.telemetry.histogram import Histogram

_TIMES = {
    "up": "Added by the relay to an audio frame of the browser, queueing included",
    "down": "Added by the relay to an audio frame of the agent, queueing included",
    "reply": "From the user's words as text to the first agent audio sent to the browser",
    "agent_total": "The same as the agent reported it",
    "agent_connect": "From the attach to the agent's open WebSocket; dialled ahead: about nothing",
    "agent_settings": "From Settings to SettingsApplied",
    "loop_lag": "How late the event loop was",
}


class Times(Collector):
    """Durations of the whole process; each is a `Histogram` by the name in `_TIMES`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._histograms = {name: Histogram("Q") for name in _TIMES}
        registry.register(self)

    def __getitem__(self, name: str) -> Histogram:
        return self._histograms[name]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        for name, histogram in self._histograms.items():
            yield HistogramMetricFamily(
                f"relay_{name}_seconds",
                _TIMES[name],
                buckets=list(histogram.cumulative()),
                sum_value=histogram.total,
            )


class Metrics:
    """The figures of one relay process; one instance, given to whoever counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions_live = Gauge(
            "relay_sessions_live",
            "Sessions with an open browser connection",
            registry=self.registry,
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
        self.refusals = Counter(
            "relay_refusals",
            "What was refused, before and within sessions",
            ["code"],
            registry=self.registry,
        )
        self.agents_used = Gauge(
            "relay_agents_used", "Agents that this process has or dials", registry=self.registry
        )
        self.agents_headroom = Gauge(
            "relay_agents_headroom",
            "How many agents more there may be, of all processes together",
            registry=self.registry,
        )
        self.calls = Counter(
            "relay_function_calls", "Function calls by outcome", ["status"], registry=self.registry
        )
        self.deliveries = Counter(
            "relay_outbox_deliveries",
            "Saved calls that were taken up again, by what came of it",
            ["status"],
            registry=self.registry,
        )
        self.outbox_waiting = Gauge(
            "relay_outbox_waiting",
            "Accepted calls without an outcome, of all processes",
            registry=self.registry,
        )
        self.outbox_oldest = Gauge(
            "relay_outbox_oldest_seconds",
            "Age of the oldest of them",
            registry=self.registry,
        )
        self.circuit_breaker = Gauge(
            "relay_orchestrator_breaker",
            "Whether the Orchestrator is asked: 0 yes, 1 on trial, 2 no",
            registry=self.registry,
        )
        self.dialled_ahead = Counter(
            "relay_dialled_ahead",
            "Agents dialled before their browser came, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.dials = Counter(
            "relay_dials", "Agents dialled, by outcome", ["outcome"], registry=self.registry
        )
        self.tasks = Gauge(
            "relay_tasks", "Tasks of the event loop that have not ended", registry=self.registry
        )
        self.task_failures = Counter(
            "relay_task_failures",
            "Background tasks, sessions and calls that raised what nobody foresaw, or cannot work",
            ["task"],
            registry=self.registry,
        )
        self.times = Times(self.registry)
        self.journal_waiting = Gauge(
            "relay_journal_waiting", "Records not in Postgres yet", registry=self.registry
        )
        self.journal_volatile = Gauge(
            "relay_journal_volatile",
            "Of these, records in memory only: the disk fails or the journal is full",
            registry=self.registry,
        )
        self.journal_bytes = Gauge(
            "relay_journal_bytes",
            "What the journal takes on disk, all workers together",
            registry=self.registry,
        )
        self.journal_failing = Gauge(
            "relay_journal_failing",
            "1 while Postgres does not take the records",
            registry=self.registry,
        )
        self.journal_lost = Counter(
            "relay_journal_lost",
            "Records that will not be in Postgres by themselves: disk and memory full, condemned",
            registry=self.registry,
        )
        self.journal_condemned = Counter(
            "relay_journal_condemned",
            "Of these, records that Postgres refuses: they are in condemned.jsonl",
            registry=self.registry,
        )
        self.journal_adopted = Counter(
            "relay_journal_adopted",
            "Records of processes that are gone, written by this one",
            registry=self.registry,
        )

    def text(self) -> bytes:
        """The figures in Prometheus' text format."""
        return generate_latest(self.registry)
