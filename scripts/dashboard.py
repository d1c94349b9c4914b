"""Makes deploy/grafana/dashboard.json from the table of panels below: `make docs`.

The first row says whether something is wrong, from left to right as a conversation goes: relay,
database, agent, journal, Orchestrator, sign-in. The others say what.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

PATH = Path("deploy/grafana/dashboard.json")
SOURCE = {"type": "prometheus", "uid": "${source}"}
JOB = 'job="voice-relay"'
WIDTH = 24
RATE = "[$__rate_interval]"
DAY = "sum(increase(relay_agent_seconds_total[1d]))"


class Panel(msgspec.Struct, frozen=True):
    """`queries` maps what a line is called to its query; `bad` is the first value that is."""

    title: str
    unit: str
    queries: dict[str, str]
    bad: float | None = None
    words: dict[str, str] = {}  # of a single value
    stacked: bool = False


def quantile(share: float, name: str, by: str = "") -> str:
    labels = f"{by}, le" if by else "le"
    rate = f"sum by ({labels}) (rate(relay_{name}_seconds_bucket{RATE}))"
    return f"histogram_quantile({share}, {rate})"


def rate(name: str, by: str) -> str:
    return f"sum by ({by}) (rate({name}{RATE}))"


STATES = [
    Panel("Relays down", "short", {"": f"count(up{{{JOB}}} == 0) or vector(0)"}, 1),
    Panel("Without database", "short", {"": "count(relay_database_up == 0) or vector(0)"}, 1),
    Panel(
        "Dials that fail",
        "percentunit",
        {
            "": f'(sum(rate(relay_dials_total{{outcome!="opened"}}{RATE})) or vector(0)) '
            f"/ (sum(rate(relay_dials_total{RATE})) > 0) or vector(0)"
        },
        0.2,
    ),
    Panel("Oldest record", "s", {"": "max(relay_journal_oldest_seconds)"}, 60),
    Panel(
        "Orchestrator",
        "short",
        {"": "max(relay_orchestrator_breaker)"},
        1,
        {"0": "asked", "1": "on trial", "2": "not asked"},
    ),
    Panel("Oldest call", "s", {"": "max(relay_outbox_oldest_seconds)"}, 900),
    Panel(
        "Sign-in keys failed",
        "short",
        {
            "": '(sum(increase(relay_jwks_reads_total{outcome="failed"}[5m])) unless '
            'sum(increase(relay_jwks_reads_total{outcome="read"}[5m])) > 0) or vector(0)'
        },
        1,
    ),
    Panel("Late (p99)", "s", {"": quantile(0.99, "loop_lag")}, 0.05),
]
ROWS: dict[str, list[Panel]] = {
    "Sessions": [
        Panel(
            "Live, by what their agent does",
            "short",
            {"{{state}}": "sum by (state) (relay_sessions)"},
            stacked=True,
        ),
        Panel("Begun", "ops", {"{{transport}}": rate("relay_sessions_begun_total", "transport")}),
        Panel("Ended, by why", "ops", {"{{reason}}": rate("relay_sessions_ended_total", "reason")}),
        Panel("Refused", "ops", {"{{code}}": rate("relay_refusals_total", "code")}),
        Panel(
            "Closed by the other side",
            "ops",
            {"{{side}} {{code}}": rate("relay_closes_total", "side, code")},
        ),
        Panel(
            "Audio thrown away",
            "ops",
            {"to {{towards}}": rate("relay_audio_dropped_total", "towards")},
        ),
    ],
    "Agents": [
        Panel("Dials", "ops", {"{{outcome}}": rate("relay_dials_total", "outcome")}),
        Panel("Why they fail", "ops", {"{{reason}}": rate("relay_dial_failures_total", "reason")}),
        Panel(
            "Errors and warnings",
            "ops",
            {"{{message}} {{code}}": rate("relay_agent_problems_total", "message, code")},
        ),
        Panel("Notes", "ops", {"{{what}}": rate("relay_notes_total", "what")}),
        Panel(
            "In use, and left",
            "short",
            {"used": "sum(relay_agents_used)", "left": "min(relay_agents_headroom < Inf)"},
        ),
        Panel(
            "Until an agent is ready (p90)",
            "s",
            {
                "connect": quantile(0.9, "agent_connect"),
                "Welcome": quantile(0.9, "agent_welcome"),
                "Settings": quantile(0.9, "agent_settings"),
                "user's context": quantile(0.9, "user_context"),
            },
        ),
    ],
    "Costs": [
        Panel("Minutes of agents, last day", "m", {"": f"{DAY} / 60"}),
        Panel(
            "Cost of the last day",
            "currencyUSD",
            {"": f"{DAY} / 60 * max(relay_agent_price_dollars)"},
        ),
    ],
    "What people wait for": [
        Panel(
            "Reply",
            "s",
            {"p50": quantile(0.5, "reply"), "p90": quantile(0.9, "reply")},
            4,
        ),
        Panel(
            "Where a reply's time goes (p90)",
            "s",
            {
                "listens": quantile(0.9, "agent_listens"),
                "thinks": quantile(0.9, "agent_thinks"),
                "speaks": quantile(0.9, "agent_speaks"),
                "is played out": quantile(0.9, "playout"),
            },
        ),
        Panel(
            "Added by the relay to a frame (p99)",
            "s",
            {"up": quantile(0.99, "up"), "down": quantile(0.99, "down")},
        ),
    ],
    "Calls": [
        Panel(
            "Calls",
            "ops",
            {"{{intent}} {{status}}": rate("relay_function_calls_total", "intent, status")},
        ),
        Panel(
            "Until the model has its answer (p90)",
            "s",
            {"{{intent}}": quantile(0.9, "function_call", "intent")},
        ),
        Panel("Outbox", "short", {"waiting": "max(relay_outbox_waiting)"}),
    ],
    "Database and disk": [
        Panel(
            "Connections",
            "short",
            {
                "{{state}}": "sum by (state) (relay_database_connections)",
                "who waits": "sum(relay_database_waiting)",
            },
        ),
        Panel(
            "Records that wait",
            "short",
            {
                "{{instance}}": "sum by (instance) (relay_journal_waiting)",
                "in memory only": "sum(relay_journal_volatile)",
            },
        ),
        Panel(
            "Journal, of what it may take",
            "percentunit",
            {"{{instance}}": "max by (instance) (relay_journal_bytes / relay_journal_limit_bytes)"},
            0.8,
        ),
    ],
    "Processes": [
        Panel(
            "Processor",
            "percentunit",
            {"{{instance}}": f"sum by (instance) (rate(process_cpu_seconds_total{RATE}))"},
            1,
        ),
        Panel(
            "Memory",
            "bytes",
            {"{{instance}}": "sum by (instance) (process_resident_memory_bytes)"},
        ),
        Panel(
            "Background tasks that fail",
            "ops",
            {"{{instance}} {{task}}": rate("relay_task_failures_total", "instance, task")},
        ),
    ],
}


def queries() -> Iterator[str]:
    """Every query, as Grafana asks."""
    for panel in (*STATES, *(panel for row in ROWS.values() for panel in row)):
        yield from panel.queries.values()


def make() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    width = WIDTH // len(STATES)
    for number, state in enumerate(STATES):
        panels.append(_panel(state, "stat", (number * width, 0, width, 4), len(panels) + 1))
    top = 4
    for title, row in ROWS.items():
        at = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        panels.append({"type": "row", "title": title, "id": len(panels) + 1, "gridPos": at})
        top += 1
        for number, panel in enumerate(row):
            place = (number % 3 * 8, top + number // 3 * 8, 8, 8)
            panels.append(_panel(panel, "timeseries", place, len(panels) + 1))
        top += -(-len(row) // 3) * 8
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": "voice-relay",
        "title": "Voice relay",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


def _panel(panel: Panel, kind: str, place: tuple[int, int, int, int], id: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad is not None:
        steps.append({"color": "red", "value": panel.bad})
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": [_word(panel.words)] if panel.words else [],
    }
    options: dict[str, Any] = {"colorMode": "background", "graphMode": "none"}
    if kind == "timeseries":
        custom: dict[str, Any] = {"fillOpacity": 10, "lineWidth": 2, "showPoints": "never"}
        if panel.bad is not None:
            custom["thresholdsStyle"] = {"mode": "line"}
        if panel.stacked:
            custom |= {"fillOpacity": 60, "stacking": {"mode": "normal", "group": "A"}}
        defaults |= {"custom": custom, "color": {"mode": "palette-classic"}}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}}
        options["tooltip"] = {"mode": "multi", "sort": "desc"}
    return {
        "id": id,
        "type": kind,
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": dict(zip("xywh", place, strict=True)),
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(65 + at), "expr": query, "legendFormat": name, "datasource": SOURCE}
            for at, (name, query) in enumerate(panel.queries.items())
        ],
    }


def _word(words: dict[str, str]) -> dict[str, Any]:
    options = {value: {"text": text, "index": at} for at, (value, text) in enumerate(words.items())}
    return {"type": "value", "options": options}


def write() -> None:
    """Where it stands in the repository."""
    path = Path(__file__).parents[1] / PATH
    path.write_text(json.dumps(make(), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    write()
