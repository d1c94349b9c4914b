"""What is to be done outside: messages in the shapes of the wire, in their order. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from relay.protocol import deepgram
from relay.sandbox.events import Action, SendAudio, SendText
from relay.sandbox.options import Options
from relay.sandbox.settings import AppliedSettings

STT_INTERVAL = 0.24  # seconds of speech between two stt_latency reports


class Output:
    """Collects until `take`. `settings` are those of the session, from Settings on."""

    def __init__(self, options: Options) -> None:
        self.settings = AppliedSettings()
        self._options = options
        self._actions: list[Action] = []
        self._heard_seconds = 0.0  # of user speech since the last report
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

    def send(self, message: deepgram.ServerMessage | dict[str, Any]) -> None:
        # As objects where the relay's structs leave out what is at its default but required.
        if isinstance(message, dict):
            text = msgspec.json.encode(message)
        else:
            text = deepgram.encode(message)
        self._actions.append(SendText(text))

    def send_raw(self, message: dict[str, Any] | str) -> None:
        text = message.encode() if isinstance(message, str) else msgspec.json.encode(message)
        self._actions.append(SendText(text))

    def warn(self, code: str, description: str) -> None:
        self.send(deepgram.Warning(description=description, code=code))

    def say(self, role: deepgram.Role, content: str) -> None:
        """The words of one side."""
        text: dict[str, Any] = {"type": "ConversationText", "role": role, "content": content}
        if self._options.conversational_behavior:
            text["conversational_behavior"] = "default"
        self.send(text)
        self.remember(deepgram.History(role=role, content=content))

    def remember(self, history: deepgram.History) -> None:
        if self.settings.history:
            self.send(history)

    # --- latencies -----------------------------------------------------------------------------

    def report_hearing(self, seconds: float) -> None:
        """So much more of the user's speech was heard."""
        self._heard_seconds += seconds
        if self._heard_seconds >= STT_INTERVAL:
            self._heard_seconds -= STT_INTERVAL
            self.send(deepgram.LatencyReport(stt_latency=0.12))

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
