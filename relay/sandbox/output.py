"""What the rules ask for, in its order: messages in the shapes of the wire, and the rest. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from relay.protocol import deepgram
from relay.sandbox.audio import Format
from relay.sandbox.script import Ending
from relay.sandbox.settings import AppliedSettings


class Sentence(msgspec.Struct, eq=False):
    """To be spoken: the answer to this action is `Playout.voice_ready`."""

    text: str
    audio: bytes | None = None  # None: not spoken yet


class Listen(msgspec.Struct, frozen=True):
    """Settings are applied: audio of this format is coming."""

    input: Format


class EndSpeech(msgspec.Struct, frozen=True):
    """Take the user's turn as finished now; the answer is `Dialogue.user_finished`."""


Action = str | bytes | Sentence | Listen | EndSpeech | Ending
"""A text is a text frame, bytes are a frame of audio; after an Ending nothing comes."""


class Output:
    """Collects until `take`. `settings` are those of the session, from Settings on."""

    def __init__(self) -> None:
        self.settings = AppliedSettings()
        self.asked: float | None = None  # when the user's turn ended; None: answered
        self._actions: list[Action] = []
        self._has_ended = False
        self._thought_seconds = 0.0

    def take(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def do(self, action: Action) -> None:
        if not self._has_ended:
            self._has_ended = isinstance(action, Ending)
            self._actions.append(action)

    def send(self, message: deepgram.ServerMessage | dict[str, Any]) -> None:
        # As objects where the relay's structs leave out what is at its default but required.
        if isinstance(message, dict):
            self.do(msgspec.json.encode(message).decode())
        else:
            self.do(deepgram.encode(message).decode())

    def warn(self, code: str, description: str) -> None:
        self.send(deepgram.Warning(description=description, code=code))

    def say(self, role: deepgram.Role, content: str) -> None:
        """The words of one side."""
        self.send({"type": "ConversationText", "role": role, "content": content})
        self.remember(deepgram.History(role=role, content=content))

    def remember(self, history: deepgram.History) -> None:
        if self.settings.history:
            self.send(history)

    # --- latencies, for what the user asked ------------------------------------------------------

    def report_thinking(self, now: float, kind: str) -> None:
        if self.asked is None:
            return
        self._thought_seconds = round(now - self.asked, 3)
        for what in ("token", kind):
            self.send({"type": "LatencyReport", f"ttt_{what}_latency": self._thought_seconds})

    def report_voice(self, now: float) -> None:
        """The first audio of the answer comes now."""
        if self.asked is None:
            return
        total, thought = round(now - self.asked, 3), self._thought_seconds
        latencies = {"tts_latency": round(max(total - thought, 0.0), 3), "total_latency": total}
        self.asked = None
        for name, seconds in latencies.items():
            self.send({"type": "LatencyReport", name: seconds})
        if self.settings.experimental:
            self.send({"type": "AgentStartedSpeaking", **latencies, "ttt_latency": thought})
