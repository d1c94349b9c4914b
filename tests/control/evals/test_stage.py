"""What of the environment an evaluation takes: it must reach nothing of yours."""

import pytest

from control.evals.stage import environment
from control.talk.audio import UsageError

YOURS = {
    "DATABASE_URL": "postgresql://yours",
    "DATABASE_DIRECT_URL": "postgresql://yours",
    "ORCHESTRATOR_URL": "https://planner.example.com",
    "ORCHESTRATOR_TOKEN": "secret",
    "RELAY_PORT": "80",
    "RELAY_PUBLIC_URL": "https://relay.example.com",
    "RELAY_CONFIG_DIR": "/etc/voice-relay",
    "RELAY_TLS_CA_FILE": "/etc/ca.pem",
    "RELAY_AGENT_SESSIONS": "5",
    "RELAY_RECORD_DIR": "recordings",
    "DEEPGRAM_API_KEY": "key",
    "DEEPGRAM_AGENT_URL": "wss://agent.eu.deepgram.com/v1/agent/converse",
    "LLM_API_KEY": "for agent.yaml",
}
TAKEN = {
    *("RELAY_CONFIG_DIR", "RELAY_TLS_CA_FILE", "RELAY_AGENT_SESSIONS", "RELAY_RECORD_DIR"),
    "LLM_API_KEY",
}


def test_neither_database_nor_orchestrator_nor_key_is_taken_for_the_sandbox():
    assert environment("sandbox", YOURS).keys() == TAKEN


def test_for_deepgram_its_key_and_address_are_taken_too():
    assert environment("deepgram", YOURS).keys() == TAKEN | {
        "DEEPGRAM_API_KEY",
        "DEEPGRAM_AGENT_URL",
    }


def test_without_a_key_deepgram_is_not_evaluated():
    with pytest.raises(UsageError, match="expected DEEPGRAM_API_KEY"):
        environment("deepgram", {})
