"""SIGHUP: reads the configuration and the key of the agent again, for sessions that begin now.

Control plane. It takes some 30 ms of the event loop, once, as the start does. The environment of a
process cannot change, so what comes from there stays as it is, but for the file of the key.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from config.current import Current
from config.errors import ConfigError
from config.loader import load
from config.settings import from_environment
from control.sessions.direct import refuse_credentials

log = logging.getLogger(__name__)


def reload(current: Current, environ: Mapping[str, str]) -> bool:
    """Take what the files say now. With a mistake in it all stays as it is, and the log has every
    one: False."""
    try:
        settings = from_environment(environ)
        configuration = load(settings.config_dir, environ)
        refuse_credentials(settings, configuration)
        if configuration.agent.context != current.configuration.agent.context:
            wanted = "expected the one of the start, which holds until the next, got another"
            raise ConfigError([f"agent.yaml: $.context: {wanted}; restart for it"])
    except ConfigError as error:
        for problem in error.problems:
            log.error("configuration_refused problem=%s", problem)
        return False
    current.configuration, current.key = configuration, settings.deepgram_api_key
    log.warning("configuration_reloaded folder=%s", settings.config_dir)
    return True
