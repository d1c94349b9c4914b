"""What sessions begin with: the newest configuration and the key of the agent.

A reload puts others in their place. Who looks here looks again for each session; one that is live
goes on as it began, but for the key of its next agent: the old one may be gone.
"""

from __future__ import annotations

from config.env_types import Secret
from config.loader import Configuration


class Current:
    """One for the whole process."""

    def __init__(self, configuration: Configuration, key: Secret) -> None:
        self.configuration = configuration
        self.key = key

    def __repr__(self) -> str:
        return f"<Current intents={len(self.configuration.registry.intents)}>"

    def reveal_key(self) -> str:
        return self.key.reveal()
