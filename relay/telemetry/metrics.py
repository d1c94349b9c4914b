"""What operators may count: one table of metrics; docs/reference/metrics.md is made from it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric

from config.version import VERSION
from relay.telemetry import histogram

M = TypeVar("M", Counter, Gauge, Histogram)

disable_created_metrics()  # type: ignore[no-untyped-call]  # twice as many lines, and no user


class Row(Generic[M]):
    """One metric of the table, `relay_` and the name of its attribute. `labels` maps each label to
    the values that it may have.

    As an attribute of a `Metrics` it is the Prometheus object that was made from it.
    """

    def __init__(self, kind: type[M], help: str, **labels: str) -> None:
        self.kind: type[M] = kind
        self.help, self.labels = help, labels

    def __set_name__(self, owner: type[Metrics], name: str) -> None:
        self.name = f"relay_{name}"

    def __get__(self, metrics: Metrics, owner: type[Metrics]) -> M:
        made: M = metrics.made[self.name]
        return made


TIMES = {
    "up": "added by the relay to an audio frame of the browser, queueing included;"
    " recorded when a session ends",
    "down": "the same for audio of the agent",
    "reply": "from the user's words as text to the first agent audio sent to the browser",
    "agent_total": "the same as the agent reported it (`LatencyReport.total_latency`)",
    "playout": "from the arrival of that audio at the browser until it is heard, as browsers"
    " report it (`RelayPlayout`)",
    "agent_connect": "from the attach to the agent's open WebSocket; next to 0 when it was dialled"
    " ahead; not measured where it was open before the session wanted one (Deepgram's own clients)",
    "agent_welcome": "from the agent's open WebSocket to its `Welcome`, where both were waited for",
    "agent_listens": "of a turn, what the agent reports for speech to text (`stt_latency`)",
    "agent_thinks": "the same for the model's first token (`ttt_token_latency`)",
    "agent_speaks": "the same for text to speech (`tts_latency`)",
    "agent_settings": "from Settings to `SettingsApplied`",
    "user_context": "from the question what is known of a user to the Orchestrator's answer",
    "loop_lag": "how late the event loop was, looked at every 50 ms",
}
"""The histograms `relay_<name>_seconds`."""


class Times:
    """Durations of the whole process; each is a histogram by the name in `TIMES`.

    Its text is made here: some thousand lines would take the library ten milliseconds of the event
    loop, which every session would hear.
    """

    def __init__(self) -> None:
        self._histograms = {name: histogram.Histogram("Q") for name in TIMES}

    def __getitem__(self, name: str) -> histogram.Histogram:
        return self._histograms[name]

    def text(self, label: str) -> str:
        """In Prometheus' text format, each sample with this `name="value"`, if it is not empty."""
        alone = f"{{{label}}}" if label else ""
        before = f"{label}," if label else ""
        lines = []
        for what, counted in self._histograms.items():
            name = f"relay_{what}_seconds"
            lines += [f"# HELP {name} {TIMES[what]}", f"# TYPE {name} histogram"]
            lines += [
                f'{name}_bucket{{{before}le="{bound}"}} {count}.0'
                for bound, count in counted.cumulative()
            ]
            lines.append(f"{name}_count{alone} {sum(counted.counts)}.0")
            lines.append(f"{name}_sum{alone} {counted.total}")
        return "".join(f"{line}\n" for line in lines)


class Metrics:
    """The figures of one relay process; one instance, given to whoever counts."""

    build_info = Row(
        Gauge, "1, for its labels", version="of this program", python="of the interpreter"
    )
    sessions_live = Row(Gauge, "live sessions, those included whose browser is waited for")
    sessions = Row(
        Gauge,
        "the same by what their agent does",
        state="dialling, welcoming, briefing, applying, open, retrying, closed",
    )
    sessions_begun = Row(
        Counter, "browsers that were let in, to a session of their own", transport="relay, deepgram"
    )
    sessions_ended = Row(
        Counter, "sessions by why they ended", reason="the end reasons in close_codes.md"
    )
    frames = Row(Counter, "audio frames, added when a session ends", source="browser, agent")
    audio_dropped = Row(
        Counter,
        "audio frames thrown away because a side does not read, is not ready or is away,"
        " added when a session ends",
        towards="browser, agent",
    )
    agent_seconds = Row(Counter, "for how long agents were connected, looked at every 30 s")
    agent_price_dollars = Row(
        Gauge, "what a minute of that costs, `RELAY_PRICE_PER_MINUTE`; 0: it is not known"
    )
    closes = Row(
        Counter,
        "WebSockets that the other side closed or lost, by its code",
        side="browser, agent",
        code="those of close_codes.md, other",
    )
    agent_problems = Row(
        Counter,
        "what agents sent",
        message="Error, Warning",
        code="those that are known (`KNOWN_CODES`), other",
    )
    notes = Row(
        Counter,
        "unexpected things that an agent said or did; browsers that were lost and came back",
        what="agent_warning, agent_unexpected, agent_malformed, agent_unknown, agent_redialled,"
        " browser_away, browser_back",
    )
    refusals = Row(
        Counter,
        "what was refused, over REST, before and within sessions",
        code="the codes of refusals and of RelayError in protocol.md; too_big, handshake_timeout,"
        " head_too_large",
    )
    agents_used = Row(Gauge, "agents that this process has or dials")
    agents_headroom = Row(
        Gauge,
        "how many more agents there may be, of all processes together, as far as this one knows;"
        " `+Inf` without `RELAY_AGENT_SESSIONS`",
    )
    function_calls = Row(
        Counter,
        "function calls by what their session was told",
        intent="the names in intents.yaml; none: there is no such function",
        status="submitted, rejected, failed, cancelled, saved, awaiting",
    )
    function_call_seconds = Row(
        Histogram,
        "from a function call to what its session was told",
        intent="as above",
    )
    outbox_deliveries = Row(
        Counter,
        "attempts of the outbox by what came of them",
        intent="as above",
        status="submitted, rejected, failed, delayed; cancelled, not_undone: of those taken back",
    )
    event_deliveries = Row(
        Counter,
        "attempts to tell the Orchestrator of an ended conversation, by what came of them",
        status="delivered, refused, failed, delayed",
    )
    user_contexts = Row(
        Counter,
        "questions to the Orchestrator what it knows of a user; skipped: the last ones all failed",
        outcome="answered, failed, skipped",
    )
    outbox_waiting = Row(
        Gauge, "calls that wait for the Orchestrator, of all processes; counted every 15 s"
    )
    outbox_oldest_seconds = Row(Gauge, "the age of the oldest of them")
    orchestrator_breaker = Row(Gauge, "whether the Orchestrator is asked: 0 yes, 1 on trial, 2 no")
    dials = Row(
        Counter,
        "agents dialled, by outcome; broken: a defect of the relay; limited: not dialled, because"
        " the last dials all failed",
        outcome="opened, failed, broken, limited",
    )
    dial_failures = Row(
        Counter,
        "those that failed, by why",
        reason="the HTTP status of a refusal; the names in network.md; other",
    )
    dialled_ahead = Row(
        Counter,
        "agents dialled before their browser came, by what became of them; failed: not there any"
        " more when the browser came; expired: no browser came here within 8 s; cancelled: the"
        " session ended before. Not dialled ahead: full, there were too many; missed, the browser"
        " came and none was dialled here. Many that expired with as many missed: the balancer leads"
        " browsers to another relay than their POST",
        outcome="used, failed, expired, cancelled, full, missed",
    )
    handed_over = Row(
        Counter, "browsers whose socket this worker gave to the one that has their session"
    )
    tasks = Row(
        Gauge, "tasks of the event loop: some ten, one for each session, and what is on its way"
    )
    task_failures = Row(
        Counter,
        "background tasks that failed, also when the database is away; one-off tasks with a defect",
        task="node, node notices, governor, siblings, sibling, retention, delivery, journal,"
        " journal of others, journal files, session, call, delivery call, events",
    )
    journal_waiting = Row(
        Gauge, "records that are not in Postgres yet, those being adopted included"
    )
    journal_volatile = Row(
        Gauge, "of these, records in memory only: the disk fails or the journal is full"
    )
    recording_bytes = Row(
        Gauge, "what recordings take on disk, all workers together, looked at once a minute"
    )
    recording_lines_lost = Row(
        Counter, "lines of recordings that were not written: the disk did not keep up, or refused"
    )
    recording_audio_lost_bytes = Row(Counter, "the same of audio: silence is in its place")
    journal_bytes = Row(Gauge, "what the journal takes on disk, all workers together")
    journal_limit_bytes = Row(Gauge, "what it may take: `RELAY_JOURNAL_BYTES`")
    journal_oldest_seconds = Row(
        Gauge, "for how long the oldest of our records has waited, some seconds less; 0: none waits"
    )
    journal_failing = Row(Gauge, "1 while Postgres does not take the records")
    journal_lost = Row(
        Counter,
        "records that will not be in Postgres by themselves: disk and memory full, a file broken,"
        " or condemned",
    )
    journal_condemned = Row(
        Counter, "of these, records that Postgres refuses: they are in `condemned.jsonl`"
    )
    journal_adopted = Row(Counter, "records of processes that are gone, written by this one")

    database_up = Row(Gauge, "1 if the last transaction went well, 0 if the database was away")
    database_connections = Row(
        Gauge, "connections to Postgres that the pool has", state="busy, idle"
    )
    database_waiting = Row(Gauge, "who waits for one of them")
    retention_runs = Row(Counter, "looks for what is too old, that went well")
    retention_erased = Row(Counter, "conversations that they erased")
    jwks_reads = Row(Counter, "reads of the keys at `RELAY_JWT_JWKS_URL`", outcome="read, failed")

    def __init__(self, worker: int | None = None) -> None:
        """`worker` is the number of this process among several, which each of its figures has."""
        self.registry = CollectorRegistry()
        self._worker = worker
        ProcessCollector(registry=self.registry)
        self.times = Times()
        self.made: dict[str, Any] = {
            row.name: row.kind(row.name, row.help, list(row.labels), registry=self.registry)
            for row in METRICS
        }
        self.build_info.labels(version=VERSION, python=platform.python_version()).set(1)

        # 0 and not absent before the first time: for `increase()` a series that begins with 1 has
        # not grown. Where the labels are known only to others, they do the same.
        for outcome in ("opened", "failed", "broken", "limited"):
            self.dials.labels(outcome=outcome)
        for outcome in ("read", "failed"):
            self.jwks_reads.labels(outcome=outcome)
        for transport in ("relay", "deepgram"):
            self.sessions_begun.labels(transport=transport)

    def text(self) -> bytes:
        """The figures in Prometheus' text format."""
        if self._worker is None:
            return generate_latest(self.registry) + self.times.text("").encode()
        return generate_latest(self) + self.times.text(f'worker="{self._worker}"').encode()

    def collect(self) -> Iterator[Metric]:
        """Those of the registry, with the label `worker`."""
        worker = {"worker": str(self._worker)}
        for family in self.registry.collect():
            family.samples = [
                sample._replace(labels=worker | sample.labels) for sample in family.samples
            ]
            yield family


def merge(texts: Sequence[bytes]) -> bytes:
    """One text of the texts of several processes: a family has one head, and all their samples."""
    families: dict[bytes, list[bytes]] = {}
    for text in texts:
        for family in text.split(b"# HELP ")[1:]:
            head, _, samples = family.partition(b"# TYPE ")
            kind, _, samples = samples.partition(b"\n")
            families.setdefault(b"# HELP %s# TYPE %s\n" % (head, kind), []).append(samples)
    return b"".join(head + b"".join(samples) for head, samples in families.items())


METRICS: list[Row[Any]] = [row for row in vars(Metrics).values() if isinstance(row, Row)]
