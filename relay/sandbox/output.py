"""What is to be done outside: messages in the shapes of the wire, in their order. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from relay.protocol import deepgram
from relay.sandbox.events import Action, SendAudio, SendText
from relay.sandbox.settings import AppliedSettings


class Output:
    """Collects until `take`. `settings` are those of the session, from Settings on."""

    def __init__(self) -> None:
        self.settings = AppliedSettings()
        self._actions: list[Action] = []
        self._thought_seconds = 0.0

    @property
    def is_empty(self) -> bool:
        return not self._actions

    def take(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def do(self, action: Action) -> None:
        self._actions.append(action)

    def play(self, frames: Iterable[bytes]) -> None:
        self._actions.extend(map(SendAudio, frames))

    def send(self, message: deepgram.ServerMessage | dict[str, Any] | str) -> None:
        # As objects where the relay's structs leave out what is at its default but required;
        # as text what a script wants to be sent as it is.
        match message:
            case str():
                text = message.encode()
            case dict():
                text = msgspec.json.encode(message)
            case _:
                text = deepgram.encode(message)
        self._actions.append(SendText(text))

    def warn(self, code: str, description: str) -> None:
        self.send(deepgram.Warning(description=description, code=code))

    def say(self, role: deepgram.Role, content: str) -> None:
        """The words of one side."""
        self.send({"type": "ConversationText", "role": role, "content": content})
        self.remember(deepgram.History(role=role, content=content))

    def remember(self, history: deepgram.History) -> None:
        if self.settings.history:
            self.send(history)

    # --- latencies -----------------------------------------------------------------------------

    def report_thinking(self, seconds: float, kind: str) -> None:
        seconds = round(seconds, 3)
        self.send({"type": "LatencyReport", "ttt_token_latency": seconds})
        self.send({"type": "LatencyReport", f"ttt_{kind}_latency": seconds})
        self._thought_seconds = seconds

    def report_voice(self, total: float) -> None:
        """The first audio comes `total` seconds after the user's turn ended."""
        total = round(total, 3)
        thought = self._thought_seconds
        voice = round(max(total - thought, 0.0), 3)
        self.send({"type": "LatencyReport", "tts_latency": voice})
        self.send({"type": "LatencyReport", "total_latency": total})
        if self.settings.experimental:
            self.send(
                {
                    "type": "AgentStartedSpeaking",
                    "total_latency": total,
                    "tts_latency": voice,
                    "ttt_latency": thought,
                }
            )
