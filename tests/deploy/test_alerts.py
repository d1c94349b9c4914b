"""deploy/prometheus and deploy/grafana: rules that Prometheus takes, that fire for what they are
for and not otherwise, about metrics that there are; and a section of the runbook for each."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from relay.telemetry.metrics import Metrics
from scripts import dashboard
from tests.promtool import needs_prometheus, promtool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))
ALERTS = {rule["alert"]: rule for rule in RULES["groups"][0]["rules"]}
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
HERE = 'instance="r1"'

# Of each alert: series (metric, labels, values) that it fires for and some that it does not, ten
# minutes long, a value each 15 s.
CASES = {
    "RelayDown": (
        [("up", 'job="voice-relay"', "1x10 0x30")],
        [("up", 'job="voice-relay"', "1x40")],
    ),
    "RelayDatabaseDown": (
        [("relay_database_up", "", "1x10 0x30")],
        [("relay_database_up", "", "1x20 0 0 1x18")],  # a restart
    ),
    "RelayAgentRefusing": (
        [
            ("relay_dials_total", 'outcome="failed"', "0+10x40"),
            ("relay_dials_total", 'outcome="opened"', "0+1x40"),
        ],
        [
            ("relay_dials_total", 'outcome="failed"', "0+1x40"),
            ("relay_dials_total", 'outcome="opened"', "0+10x40"),
        ],
    ),
    "RelayConversationsLost": (
        [
            ("relay_sessions_ended_total", 'reason="agent_unreachable"', "0+1x40"),
            ("relay_sessions_begun_total", 'transport="relay"', "0+10x40"),
        ],
        [
            ("relay_sessions_ended_total", 'reason="browser_left"', "0+10x40"),
            ("relay_sessions_begun_total", 'transport="relay"', "0+10x40"),
        ],
    ),
    "RelayJournalGrowing": (
        [("relay_journal_oldest_seconds", "", "0+15x40")],
        [("relay_journal_oldest_seconds", "", "0 5 1 6 40 50 0x34")],
    ),
    "RelayJournalFull": (
        [
            ("relay_journal_bytes", "", "90x40"),
            ("relay_journal_limit_bytes", "", "100x40"),
            ("relay_journal_volatile", "", "0x40"),
        ],
        [
            ("relay_journal_bytes", "", "70x40"),
            ("relay_journal_limit_bytes", "", "100x40"),
            ("relay_journal_volatile", "", "0x40"),
        ],
    ),
    "RelayRecordsLost": (
        [("relay_journal_lost_total", "", "0x30 1x10")],
        [("relay_journal_lost_total", "", "7x40")],
    ),
    "RelayOrchestratorDown": (
        [("relay_orchestrator_breaker", "", "0x20 2x20")],
        [("relay_orchestrator_breaker", "", "0x20 2 1 0x18")],
    ),
    "RelayOutboxOld": (
        [("relay_outbox_oldest_seconds", "", "600+15x40")],
        [("relay_outbox_oldest_seconds", "", "0x40")],
    ),
    "RelaySignInKeysFailing": (
        [
            ("relay_jwks_reads_total", 'outcome="failed"', "0+1x40"),
            ("relay_jwks_reads_total", 'outcome="read"', "5x40"),
        ],
        [
            ("relay_jwks_reads_total", 'outcome="failed"', "0+1x40"),
            ("relay_jwks_reads_total", 'outcome="read"', "0+1x40"),
        ],
    ),
    "RelayTaskFailing": (
        [("relay_task_failures_total", 'task="governor"', "0+1x40")],
        [("relay_task_failures_total", 'task="governor"', "0x20 1x20")],
    ),
    "RelayLate": (
        [
            ("relay_loop_lag_seconds_bucket", 'le="0.1"', "0+0x40"),
            ("relay_loop_lag_seconds_bucket", 'le="0.2"', "0+300x40"),
            ("relay_loop_lag_seconds_bucket", 'le="+Inf"', "0+300x40"),
        ],
        [
            ("relay_loop_lag_seconds_bucket", 'le="0.001"', "0+300x40"),
            ("relay_loop_lag_seconds_bucket", 'le="0.2"', "0+300x40"),
            ("relay_loop_lag_seconds_bucket", 'le="+Inf"', "0+300x40"),
        ],
    ),
    "RelayRepliesSlow": (
        [
            ("relay_reply_seconds_bucket", 'le="4"', "0+1x40"),
            ("relay_reply_seconds_bucket", 'le="8"', "0+10x40"),
            ("relay_reply_seconds_bucket", 'le="+Inf"', "0+10x40"),
        ],
        [
            ("relay_reply_seconds_bucket", 'le="1"', "0+10x40"),
            ("relay_reply_seconds_bucket", 'le="8"', "0+10x40"),
            ("relay_reply_seconds_bucket", 'le="+Inf"', "0+10x40"),
        ],
    ),
    "RelayNoAgentsLeft": (
        [("relay_agents_headroom", "", "5x10 0x30")],
        [("relay_agents_headroom", "", "50x40")],
    ),
    "RelayNoConnectionsLeft": (
        [("relay_database_waiting", "", "9x40")],
        [("relay_database_waiting", "", "0x40")],
    ),
}  # fmt: skip


def names():
    """Every name that a scrape of a relay may have."""
    found = {"up"}
    for family in parse(Metrics().text().decode()):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        found |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    return found


def metrics_of(query):
    return set(re.findall(r"\b(?:relay|process)_\w+", query))


def files_for(folder, series, fires, alert):
    """What promtool reads: the rule without its annotations, and one test of it."""
    rule = copy.deepcopy(ALERTS[alert])
    del rule["annotations"]
    (folder / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]})
    )
    labels = dict(rule["labels"])
    if fires and alert != "RelayRepliesSlow" and alert != "RelayOutboxOld":
        labels |= {"instance": "r1"}
    if alert == "RelayDown":
        labels |= {"job": "voice-relay"}
    if alert == "RelayTaskFailing":
        labels |= {"task": "governor"}
    expected = [{"exp_labels": labels}] if fires else []
    test = {
        "interval": "15s",
        "input_series": [
            {"series": f"{name}{{{','.join(filter(None, (HERE, more)))}}}", "values": values}
            for name, more, values in series
        ],
        "alert_rule_test": [{"eval_time": "10m", "alertname": alert, "exp_alerts": expected}],
    }
    path = folder / "test.yaml"
    path.write_text(
        yaml.safe_dump(
            {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [test]}
        )
    )
    return str(path)


@needs_prometheus
@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.parametrize("fires", [True, False], ids=["fires", "stays silent"])
def test_an_alert_fires_for_what_it_is_for(tmp_path, alert, fires):
    series = CASES[alert][0 if fires else 1]

    assert "SUCCESS" in promtool("test", "rules", files_for(tmp_path, series, fires, alert))


@needs_prometheus
def test_prometheus_takes_configuration_and_rules():
    assert "SUCCESS" in promtool("check", "config", str(FOLDER / "prometheus.yaml"))
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", str(FOLDER / "alerts.yaml"))


def test_every_alert_has_its_case_and_its_section_in_the_runbook():
    assert CASES.keys() == ALERTS.keys()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^#|\Z)", RUNBOOK, re.M | re.S))
    assert sections.keys() == ALERTS.keys()
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        for part in ("**Means**", "**Look**", "**Do**"):
            assert part in sections[name], name


def test_alerts_and_dashboard_ask_for_metrics_that_there_are():
    known = names()
    asked = {name for rule in ALERTS.values() for name in metrics_of(rule["expr"])}
    shown = {name for query in dashboard.queries() for name in metrics_of(query)}

    assert len(asked) > 10
    assert len(shown) > 20
    assert asked | shown <= known
    said = {name for name in re.findall(r"`((?:relay|process)_[a-z_]+)", RUNBOOK)}
    assert said <= known


def test_the_dashboard_is_what_the_command_makes():
    made = json.loads((ROOT / dashboard.PATH).read_text("utf-8"))

    assert made == dashboard.make(), "run `make docs`"
    panels = [panel for panel in made["panels"] if panel["type"] != "row"]
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])


@needs_prometheus
def test_prometheus_can_read_every_query_of_the_dashboard(tmp_path):
    rules = [
        {"record": f"panel_{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(dashboard.queries())
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    assert "SUCCESS" in promtool("check", "rules", str(path))
