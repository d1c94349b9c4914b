"""SIGHUP: reads the configuration and the key of the agent again, for sessions that begin now.

Control plane. It takes some 30 ms of the event loop, once, as the start does. The environment of a
process cannot change, so what comes from there stays as it is, but for the file of the key.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from config.agent import Agent
from config.current import Current
from config.errors import ConfigError
from config.loader import load
from config.settings import from_environment
from control.sessions.direct import refuse_credentials

log = logging.getLogger(__name__)


# Of these there are tasks and connections.
FIXED = ("context", "events")


def reload(current: Current, environ: Mapping[str, str]) -> bool:
    """Take what the files say now. With a mistake in it all stays as it is, and the log has every
    one: False."""
    try:
        settings = from_environment(environ)
        configuration = load(settings.config_dir, environ)
        refuse_credentials(settings, configuration)
        _refuse_changes(configuration.agent, current.configuration.agent)
    except ConfigError as error:
        for problem in error.problems:
            log.error("configuration_refused problem=%s", problem)
        return False
    current.configuration, current.key = configuration, settings.deepgram_api_key
    log.warning("configuration_reloaded folder=%s", settings.config_dir)
    return True


def _refuse_changes(agent: Agent, before: Agent) -> None:
    wanted = "expected what it was at the start, got another; restart for it"
    problems = [
        f"agent.yaml: $.{name}: {wanted}"
        for name in FIXED
        if getattr(agent, name) != getattr(before, name)
    ]
    if problems:
        raise ConfigError(problems)
