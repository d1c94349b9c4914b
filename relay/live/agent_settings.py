"""The Settings for an agent at this moment: of a new session, of a resumed one, of the next agent.

What they consist of is in message_policy.py and agent_history.py; here are the day and the log.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from config import timezones
from config.loader import Configuration
from relay.core import agent_history, message_policy
from relay.core.admitted import Admitted
from relay.core.user_context import UserContext
from relay.protocol import deepgram

log = logging.getLogger(__name__)


def compose(
    configuration: Configuration,
    admitted: Admitted,
    history: Sequence[deepgram.History],
    context: UserContext,
) -> deepgram.Settings:
    """For an agent that is told this history, and this of the user. Today is what it is where the
    user is, now."""
    today = datetime.now(timezones.find(admitted.timezone) or UTC).date()
    settings = message_policy.settings(configuration, admitted, today, history, context)
    assert isinstance(settings.agent, dict), (
        "not the name of a stored one: it is made of agent.yaml"
    )
    told = settings.agent.get("context", {}).get("messages", [])
    wanted = agent_history.with_words(history)
    whole, rest = agent_history.size(wanted), agent_history.size(told)
    if rest < whole:
        log.warning(
            "context_cut session=%s lines=%d of_lines=%d bytes=%d of_bytes=%d",
            admitted.session_id,
            len(told),
            len(wanted),
            rest,
            whole,
        )
    return settings
